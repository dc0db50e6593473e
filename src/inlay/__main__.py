"""`python -m inlay` and the `inlay` command."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself takes a millisecond to import
import gc
import os
import sys

from inlay import bytecode

_ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)


def main() -> int:
    """Run the command line, and end the process."""
    # A build makes many objects and little rubbish: looking for that takes a twentieth of a cached one.
    gc.set_threshold(100_000)
    if _signal.getsignal(_signal.SIGINT) == _signal.default_int_handler:  # a script's background ignores it
        _signal.signal(_signal.SIGINT, _leave)
    modules = bytecode.use()
    code = run()
    for number in _ENDING:  # what was asked for is done, or was given up already
        _signal.signal(number, _signal.SIG_IGN)
    bytecode.renew(modules)
    # What a process has open, the kernel closes; taking the interpreter apart first takes 10 ms.
    os._exit(code)


def run() -> int:
    """Run the command line, flush what it printed, and return the exit code: after Ctrl-C 130, as shells expect."""
    from inlay.cli import run as run_command

    for number in _ENDING:
        if _signal.getsignal(number) in (_signal.SIG_DFL, _leave):  # nohup ignores one
            _signal.signal(number, _stop)
    try:
        code = run_command(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as leaving:  # argparse's, which has printed what there is to say
        sys.stdout.flush()
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt as stopped:
        sys.stderr.write("inlay: interrupted\n")
        return 128 + stopped.args[0] if stopped.args else 130
    except BrokenPipeError:
        return 141  # whoever read our output has gone
    return code


def _leave(number: int, _: object) -> None:
    """End while the program is still being imported: nothing has begun, and what is raised in an import may be lost."""
    os.write(2, b"inlay: interrupted\n")
    os._exit(128 + number)


def _stop(number: int, _: object) -> None:
    """End as after Ctrl-C: what runs is ended, what is half-made is removed."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    main()
