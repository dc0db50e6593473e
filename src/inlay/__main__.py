"""`python -m inlay` and the `inlay` command."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; Ctrl-C ends with 130 as shells expect."""
    from inlay.cli import run

    try:
        return run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("inlay: interrupted\n")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
