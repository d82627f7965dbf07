"""A Ray cluster of several nodes on this machine, in a process of its own that JAX is not in.

Run as a program it takes commands, ``add CPUS GPUS`` and ``remove PLACE``, and answers each.
"""

import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

__all__ = ["nodes_of"]


class _Nodes:
    def __init__(self, process, mark):
        self.process, self.mark = process, mark
        self.address = process.stdout.readline().strip()

    def _ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def add(self, cpus, gpus=0):
        """GPUs are a number that Ray is told."""
        self._ask(f"add {cpus} {gpus}")

    def remove(self, place):
        """Kill the node that was added as number ``place``, with all that runs on it."""
        self._ask(f"remove {place}")

    def workers(self):
        """Process ids of workers that wait or compute, oldest first."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (folder / "cmdline").read_bytes()
                # Ray changes a worker's title, not what it was started with.
                start = (folder / "environ").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::RemoteWorker") and self.mark.encode() in start:
                found.append(int(folder.name))
        return sorted(found)


@contextmanager
def nodes_of(*cpus):
    """A cluster whose head runs no workers, and which has a node for each number of CPUs."""
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "TEST_CLUSTER": mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        nodes = _Nodes(process, mark)
        for number in cpus:
            nodes.add(number)
        try:
            yield nodes
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def _serve():
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    nodes = []
    print(cluster.address, file=answers, flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "add":
            cpus, gpus = map(int, numbers)
            nodes.append(cluster.add_node(num_cpus=cpus, num_gpus=gpus, **memory))
        else:
            cluster.remove_node(nodes[int(numbers[0])], allow_graceful=False)
        print("done", file=answers, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
