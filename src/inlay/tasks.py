"""Coroutines on one thread, blocking calls on a few others.

The solver, the index and the progress display live on one thread, so they need no locks; disk, hashing,
compression and network are plain functions that run through `in_thread`. That is what asyncio offers too,
but importing asyncio costs more than a whole build in which everything is cached (docs/design.md).

    async def main() -> int:
        work = [spawn(fetch(url)) for url in urls]      # start now, at the same time
        pages = await gather(work)                      # the first error comes through at once
        return await in_thread(compress, pages)         # does not hold up the others
    run(main())
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself takes a millisecond to import
import _thread
import sys
from _collections import deque  # type: ignore[import-not-found]
from _functools import partial  # type: ignore[import-not-found]
from _queue import Empty, SimpleQueue

from inlay.errors import BuildCancelled, SolveError
from inlay.typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable
    from typing import Any

    from inlay.cancellation import Cancellation

T = TypeVar("T")


NAP_S = 0.2
"""How long the loop sleeps at most: Python handles signals between two calls, not in one."""
IDLE_S = 0.05
"""A loop that has had nothing to do for this long does what `when_idle` was given."""
_ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)


class Cancelled(BaseException):
    """Raised inside a coroutine whose task was cancelled, and in a blocking call that asks (`check_cancelled`)."""


class Task(Generic[T]):
    """Something that will have a value or an error. Awaiting it any number of times is fine."""

    __slots__ = (
        "_abort",
        "_callbacks",
        "_coroutine",
        "_done",
        "_epoch",
        "_error",
        "_is_cancelled",
        "_loop",
        "_value",
    )

    def __init__(self, loop: _Loop, coroutine: Coroutine[Any, Any, T] | None = None) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._abort: Callable[[], None] | None = None
        self._is_cancelled = False
        self._epoch = 0

    @property
    def done(self) -> bool:
        return self._done

    @property
    def succeeded(self) -> bool:
        return self._done and self._error is None

    def result(self) -> T:
        """The value, or raise the error. Only for a task that is done."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def __await__(self) -> Generator[Task[T], None, T]:
        if not self._done:
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def cancel(self) -> None:
        """Raise `Cancelled` where the task waits; a blocking call is told by `check_cancelled` and its `abort`."""
        if self._done:
            return
        self._is_cancelled = True
        if self._coroutine is not None:
            self._epoch += 1
            self._loop.ready.append((self, self._epoch, Cancelled()))
        elif self._abort is not None:
            self._abort()

    def when_done(self, callback: Callable[[], None]) -> None:
        if self._done:
            callback()
        else:
            self._callbacks.append(callback)

    def finish(self, value: T | None = None, error: BaseException | None = None) -> None:
        if self._done:
            return
        self._done, self._value, self._error = True, value, error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Limiter:
    """At most `limit` blocking calls of one kind at a time; the others wait in order."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Task[None]] = deque()

    async def turn(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn: Task[None] = Task(_loop())
        self._waiting.append(turn)
        try:
            await turn
        except Cancelled:
            if turn.done:
                self.give_back()
            else:
                self._waiting.remove(turn)
            raise

    def give_back(self) -> None:
        if self._waiting:
            self._waiting.popleft().finish()
        else:
            self._free += 1


class _Loop:
    def __init__(self) -> None:
        self.ready: deque[tuple[Task[Any], int, BaseException | None]] = deque()
        self.finished: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.live: set[Task[Any]] = set()
        self.threads: list[Callable[[], object]] = []
        self.idle = 0
        self.outstanding = 0
        self.put_off: list[Callable[[], None]] = []

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        task: Task[T] = Task(self, coroutine)
        self.live.add(task)
        self.ready.append((task, 0, None))
        return task

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        task: Task[T] = Task(self, coroutine)
        self._step(task, 0, None)
        if not task._done:
            self.live.add(task)
        return task

    def until(self, condition: Callable[[], bool]) -> None:
        """Run tasks until `condition` holds; it is looked at between steps."""
        while not condition():
            if self.ready:
                self._step(*self.ready.popleft())
            elif self.outstanding:
                try:
                    land = self.finished.get(timeout=IDLE_S if self.put_off else NAP_S)
                except Empty:  # also where a signal that came just before the wait has not ended it
                    while self.put_off:
                        self.put_off.pop()()
                    continue
                land()
            else:
                raise RuntimeError("deadlock: every task waits for another")
            while not self.finished.empty():
                self.finished.get()()

    def _step(self, task: Task[Any], epoch: int, error: BaseException | None) -> None:
        coroutine = task._coroutine
        if task._done or epoch != task._epoch or coroutine is None:
            return  # woken for something it no longer waits for
        try:
            awaited = coroutine.throw(error) if error is not None else coroutine.send(None)
        except StopIteration as stop:
            self.live.discard(task)
            task.finish(stop.value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:  # whatever it is, it belongs to whoever awaits the task
            self.live.discard(task)
            task.finish(error=failure)
        else:
            task._epoch = wake = epoch + 1
            awaited.when_done(partial(self.ready.append, (task, wake, None)))

    def call(self, job: Callable[[], None]) -> None:
        if self.idle:
            self.idle -= 1
        else:
            self.threads.append(start_thread(self._work))
        self.outstanding += 1  # only once there is a thread for it, as it is waited for
        self.jobs.put(job)

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            job()

    def back(self) -> None:
        """A thread has handed in its job and waits for another."""
        self.outstanding -= 1
        self.idle += 1

    def close(self) -> None:
        """Cancel what is left and wait for it: no thread outlives the loop."""
        while self.live or self.outstanding:
            for task in list(self.live):
                task.cancel()
            self.until(lambda: not self.live and not self.outstanding)
        for _ in self.threads:
            self.jobs.put(None)
        for join in self.threads:
            join()


_threading = sys.modules.get("threading")
"""It takes 2 ms to import. Where somebody has done that before (a program that uses inlay, a debugger), it is used,
so that they see inlay's threads. Later it may be half-imported, by one of those."""


def start_thread(function: Callable[[], None]) -> Callable[[], object]:
    """Call `function`, which raises nothing, on another thread, as a part of the blocking call that this thread is in;
    return what waits for its end. Raises `SolveError` where the system lets no thread start."""
    call = getattr(_local, "call", None)

    def take_part() -> None:
        _local.call = call
        function()

    try:
        return _start_thread(take_part)
    except RuntimeError as error:
        raise SolveError(
            f"{error}; end other processes, or raise how many there may be (ulimit -u, or the container's pids limit)"
        ) from error


def _start_thread(function: Callable[[], None]) -> Callable[[], object]:
    if _threading is not None:
        thread = _threading.Thread(target=function, name="inlay", daemon=True)
        thread.start()
        return cast("Callable[[], object]", thread.join)
    ended = _thread.allocate_lock()
    ended.acquire()

    def work() -> None:
        try:
            function()
        finally:
            ended.release()

    _thread.start_new_thread(work, ())
    return ended.acquire


_local = _thread._local()
"""Of each thread: the `loop` that runs on it, and the `call` of `in_thread` that it is part of."""


def _loop() -> _Loop:
    loop: _Loop | None = getattr(_local, "loop", None)
    if loop is None:
        raise RuntimeError("not inside inlay.tasks.run()")
    return loop


def run(
    main: Coroutine[Any, Any, T],
    *,
    abort: Callable[[], None] | None = None,
    cancellation: Cancellation | None = None,
) -> T:
    """Run `main` to its end and return its value. On an error or Ctrl-C everything that it
    started is cancelled and waited for before the error goes on; `abort` is called first, and should
    make blocking calls that have no `abort` of their own return soon. To cancel `cancellation` is such an
    error: `BuildCancelled`."""
    if getattr(_local, "loop", None) is not None:
        raise RuntimeError("inlay.tasks.run() cannot be nested")
    loop = _local.loop = _Loop()
    restore = _defer_signals(loop)
    forget = _listen(cancellation, loop)
    try:
        task = loop.spawn(main)
        try:
            loop.until(lambda: task._done)
        finally:
            if abort is not None and not task.succeeded:
                abort()
            loop.close()
        return task.result()
    finally:
        _local.loop = None
        forget()
        restore()


def _listen(cancellation: Cancellation | None, loop: _Loop) -> Callable[[], None]:
    """Have `cancellation` end what `loop` runs, between two steps; return how to stop that."""

    def end() -> None:
        raise BuildCancelled("the build was cancelled")

    return cancellation.listen(lambda: loop.finished.put(end)) if cancellation is not None else lambda: None


def _defer_signals(loop: _Loop) -> Callable[[], None]:
    """Let signals that end a build do so between two steps; return what undoes this.

    Python runs a handler between any two instructions of the main thread. What it raises there may leave a call
    counted that no thread has got, and the loop would wait for it without end. A second signal is not deferred:
    a step may be in the middle of something that does not end.
    """
    before = {number: _signal.getsignal(number) for number in _ENDING}
    told: set[int] = set()

    def handle(number: int, frame: object) -> None:
        handler = before[number]
        if number in told:
            handler(number, frame)
        else:
            told.add(number)
            loop.finished.put(lambda: handler(number, None))

    deferred = [number for number in _ENDING if callable(before[number])]
    try:
        for number in deferred:
            _signal.signal(number, handle)
    except ValueError:
        return lambda: None  # only the main thread may, and only it is interrupted

    def restore() -> None:
        for number in deferred:
            _signal.signal(number, before[number])

    return restore


def spawn(coroutine: Coroutine[Any, Any, T]) -> Task[T]:
    """Start `coroutine` now, beside whoever calls."""
    return _loop().spawn(coroutine)


def start(coroutine: Coroutine[Any, Any, T]) -> Task[T]:
    """Like `spawn`, but run `coroutine` up to where it first waits before returning: one that never
    waits is done at once. A coroutine that starts others this way nests on the stack; start those that
    it will wait for first."""
    return _loop().start(coroutine)


def when_idle(work: Callable[[], None]) -> None:
    """Call `work` on this thread as soon as nothing has been left to do for `IDLE_S`, if that comes to pass."""
    _loop().put_off.append(work)


def promise() -> Task[Any]:
    """A task that is done when whoever made it calls `finish`, which must come, even after an error."""
    return Task(_loop())


async def gather(tasks: Iterable[Task[T]]) -> list[T]:
    """Wait for all of `tasks` and return their values in order; raise the first error when it comes.
    The other tasks go on: they may be others' too."""
    tasks = list(tasks)
    for task in tasks:
        if not task._done:
            break
    else:
        return [task.result() for task in tasks]
    all_done: Task[None] = Task(_loop())
    left = len(tasks)

    def note(task: Task[T]) -> None:
        nonlocal left
        left -= 1
        if task._error is not None:
            all_done.finish(error=task._error)
        elif not left:
            all_done.finish()

    for task in tasks:
        task.when_done(lambda task=task: note(task))  # type: ignore[misc]
    await all_done
    return [task.result() for task in tasks]


async def first_done(tasks: Iterable[Task[Any]]) -> None:
    """Wait until at least one of `tasks` is done, whether with a value or an error."""
    one: Task[None] = Task(_loop())
    for task in tasks:
        task.when_done(one.finish)
    await one


async def all_done(tasks: Iterable[Task[Any]]) -> None:
    """Wait until every one of `tasks` is done, whether with a value or an error."""
    waiting = [task for task in tasks if not task.done]
    if not waiting:
        return
    last: Task[None] = Task(_loop())
    left = len(waiting)

    def note() -> None:
        nonlocal left
        left -= 1
        if not left:
            last.finish()

    for task in waiting:
        task.when_done(note)
    await last


async def in_thread(
    function: Callable[..., T],
    *args: Any,
    limiter: Limiter | None = None,
    abort: Callable[[], None] | None = None,
    discard: Callable[[T], object] | None = None,
) -> T:
    """Call `function(*args)` on another thread and wait for its value.

    `limiter` bounds how many calls of its kind run at once. When the caller is cancelled, the call should return
    soon: what takes its time calls `check_cancelled` now and then, and for what cannot, `abort` is called on
    the loop's thread (to kill a process, to close a socket). The call is always waited for; if it gives a value
    nevertheless, `discard` gets that, which nobody else does.
    """
    loop = _loop()
    future: Task[T] = Task(loop)
    future._abort = abort

    def job() -> None:
        _local.call = future
        try:
            value, error = function(*args), None
        except BaseException as failure:
            value, error = None, failure
        _local.call = None
        loop.finished.put(lambda: land(value, error))

    def land(value: T | None, error: BaseException | None) -> None:
        loop.back()
        if limiter is not None:
            limiter.give_back()
        future.finish(value, error)

    if limiter is not None:
        await limiter.turn()
    try:
        loop.call(job)
    except BaseException:
        if limiter is not None:
            limiter.give_back()
        raise
    try:
        return await future
    except Cancelled:
        future.cancel()
        await _ended(future)
        if discard is not None and future.succeeded:
            discard(future.result())
        raise


def check_cancelled() -> None:
    """Raise `Cancelled` in a call of `in_thread` whose caller was cancelled; elsewhere do nothing.

    For loops over data, once for each MiB or so, and over files: it takes a tenth of a microsecond.
    """
    call: Task[object] | None = getattr(_local, "call", None)
    if call is not None and call._is_cancelled:
        raise Cancelled


async def _ended(future: Task[Any]) -> None:
    """Wait until `future` is done, however that ends, and however often the wait is cancelled."""
    while not future.done:
        try:
            await future
        except Cancelled:
            continue
        except BaseException:
            return
