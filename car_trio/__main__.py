"""`python -m car_trio` is the daemon; with a command it is the command line."""

from __future__ import annotations

import sys


def main() -> None:
    from car_trio.cli.app import run
    from car_trio.cli.streams import prepare

    prepare()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
