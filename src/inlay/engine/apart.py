"""A build in a process of its own, for programs that are not root.

A process enters a user namespace as a whole, for good, and before it has threads: nothing that a library may
do to the program that uses it. So the build is another process, which gets the request, and sends back events
and in the end the result or the error, all pickled, over two pipes. It ends with its caller, however that ends.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading

from inlay.cancellation import Cancellation
from inlay.errors import BuildCancelled, SolveError
from inlay.system.filebytes import write_all
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from inlay.progress.events import Event
    from inlay.request import BuildRequest, BuildResult

_PATIENCE_S = 5.0
_EVENT, _RESULT, _ERROR = "event", "result", "error"
_START = (
    "import _signal, os, sys; "
    "[_signal.signal(each, lambda *_: os._exit(1)) for each in (_signal.SIGINT, _signal.SIGTERM) "
    "if _signal.getsignal(each) != _signal.SIG_IGN]; "
    "read_fd, write_fd, *sys.path[:] = sys.argv[1:]; "
    "from inlay.engine.apart import serve; serve(int(read_fd), int(write_fd))"
)
"""Nothing is raised before `serve` can deal with it."""


def build_apart(
    request: BuildRequest, sink: Callable[[Event], None], cancellation: Cancellation | None = None
) -> BuildResult:
    """What `inlay.engine.build.build` does, for callers who cannot unpack images and run steps themselves.

    `sink` is called on the calling thread. When that raises, or Ctrl-C does, or `cancellation` is cancelled, the
    build is stopped and waited for.
    """
    asked = pickle.dumps(request)
    request_read, request_write = os.pipe()
    answer_read, answer_write = os.pipe()
    command = [sys.executable, "-c", _START, str(request_read), str(answer_write), *sys.path]
    with open(answer_read, "rb") as answers, open(request_write, "wb", buffering=0) as requests:
        try:
            process = subprocess.Popen(command, pass_fds=(request_read, answer_write))
        finally:
            os.close(request_read)
            os.close(answer_write)
        cancellation = cancellation or Cancellation()
        forget = cancellation.listen(threading.Thread(target=_stop, args=(process,)).start)
        try:
            _ask(requests.fileno(), asked)
            kind, value = _answer_of(process, answers, cancellation)
            while kind == _EVENT:
                sink(value)  # type: ignore[arg-type]
                kind, value = _answer_of(process, answers, cancellation)
        except BaseException:
            answers.close()  # or it might wait for ever for its events to be read
            _stop(process)
            raise
        finally:
            forget()
        process.wait()
    if kind == _ERROR:
        raise value  # type: ignore[misc]
    return value  # type: ignore[return-value]


def _ask(fd: int, asked: bytes) -> None:
    try:
        write_all(fd, asked)
    except BrokenPipeError:
        return  # the process has ended: there will be no answer


def _answer_of(
    process: subprocess.Popen[bytes], answers: BinaryIO, cancellation: Cancellation
) -> tuple[str, object]:
    """What the process says next. Raises `BuildCancelled` or `SolveError` where it has ended."""
    try:
        return pickle.load(answers)  # type: ignore[no-any-return]
    except (EOFError, pickle.UnpicklingError):
        code = process.wait()
        if cancellation.cancelled:
            raise BuildCancelled("the build was cancelled") from None
        raise SolveError(f"the process that builds has ended with {code}") from None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process; what it leaves of steps and files goes with it, however it ends."""
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:  # the signal came where Python loses a lock by it
        process.kill()


def serve(read_fd: int, write_fd: int) -> None:
    """Be the process that builds."""
    import signal

    from inlay.system import linux, rootless

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, stop)
        caller = os.getppid()
        with open(read_fd, "rb") as requests:
            try:
                request = pickle.load(requests)
            except EOFError:
                os._exit(1)  # the caller has ended
        rootless.enter()
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a new user namespace forgets it
        if os.getppid() != caller:
            os._exit(1)
        _serve(request, write_fd)
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)  # nobody listens any more


def _serve(request: BuildRequest, write_fd: int) -> None:
    with open(write_fd, "wb") as answers:
        lock = threading.Lock()

        def send(kind: str, value: object) -> None:
            with lock:
                pickle.dump((kind, value), answers)
                answers.flush()

        _answer(request, send)


def _answer(request: BuildRequest, send: Callable[[str, object], None]) -> None:
    from inlay.engine.build import NotCached, build
    from inlay.errors import InlayError

    try:
        send(_RESULT, build(request, lambda event: send(_EVENT, event)))
    except NotCached as error:
        error.vertices = ()  # they are this process's
        send(_ERROR, error)
    except InlayError as error:
        send(_ERROR, error)
