"""`python -m inlay` and the `inlay` command."""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Run the command line, and end the process."""
    # A build makes many objects and little rubbish: looking for that takes a twentieth of a cached one.
    gc.set_threshold(100_000)
    code = run()
    # What a process has open, the kernel closes; taking the interpreter apart first takes 10 ms.
    os._exit(code)


def run() -> int:
    """Run the command line, flush what it printed, and return the exit code: after Ctrl-C 130, as shells expect."""
    from inlay.cli import run as run_command

    try:
        code = run_command(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as leaving:  # argparse's, which has printed what there is to say
        sys.stdout.flush()
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        sys.stderr.write("inlay: interrupted\n")
        return 130
    except BrokenPipeError:
        return 141  # whoever read our output has gone
    return code


if __name__ == "__main__":
    main()
