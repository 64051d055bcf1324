"""`python -m pellucid` is the command `pellucid`."""

import sys

from pellucid.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
