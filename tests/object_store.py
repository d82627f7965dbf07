"""An S3-compatible object store on this machine: moto's server, with errors on demand."""

import random
import threading
from contextlib import contextmanager

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

__all__ = ["Store", "object_store"]

_ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>%s</Code><Message>injected</Message><RequestId>1</RequestId></Error>"
)


class Store:
    """The server as a WSGI application, and what is asked of it.

    Attributes:
        error_rate: share of requests that are answered by "slow down", as S3 does when it is busy.
        needs_credentials: refuse requests that are not signed.
        requests, errors: how many there were.
    """

    def __init__(self):
        self.application = DomainDispatcherApplication(create_backend_app)
        self.error_rate = 0.0
        self.needs_credentials = False
        self.requests = self.errors = 0
        self.random = random.Random(0)
        self.lock = threading.Lock()
        self.port = 0

    def __call__(self, environ, start_response):
        with self.lock:
            self.requests += 1
            failing = self.random.random() < self.error_rate
            self.errors += failing
        if failing:
            return self._refuse(environ, start_response, "503 Slow Down", b"SlowDown")
        if self.needs_credentials and "HTTP_AUTHORIZATION" not in environ:
            return self._refuse(environ, start_response, "403 Forbidden", b"AccessDenied")
        return self.application(environ, start_response)

    def _refuse(self, environ, start_response, status, code):
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = b"" if environ["REQUEST_METHOD"] == "HEAD" else _ERROR % code
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body]

    def uri(self, path):
        return f"s3://{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *arguments):
        pass


@contextmanager
def object_store(bucket):
    """A running store with one bucket."""
    store = Store()
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=_Quiet)
    store.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    from pyarrow import fs

    made, _ = fs.FileSystem.from_uri(store.uri(bucket) + "&allow_bucket_creation=true")
    made.create_dir(bucket)
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
