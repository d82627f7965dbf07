"""``python -m gaunlearn``: the command line."""

import sys

from gaunlearn.cli import main

if __name__ == "__main__":
    sys.exit(main())
