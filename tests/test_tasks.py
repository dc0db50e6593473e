"""tasks: coroutines on one thread, blocking calls on others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import inlay.cancellation as cancellation_module
from inlay.cancellation import Cancellation
from inlay.errors import BuildCancelled
from inlay.tasks import (
    IDLE_S,
    Cancelled,
    Limiter,
    Task,
    all_done,
    check_cancelled,
    first_done,
    gather,
    in_thread,
    promise,
    run,
    spawn,
    start,
    start_thread,
    when_idle,
)

if TYPE_CHECKING:
    from types import FrameType


def test_run_returns_the_value_of_the_main_coroutine() -> None:
    async def main() -> int:
        return sum(await gather([spawn(double(n)) for n in range(4)]))

    async def double(n: int) -> int:
        return 2 * n

    assert run(main()) == 12


def test_a_promise_has_the_value_or_the_error_that_it_is_finished_with() -> None:
    async def main() -> int:
        kept, broken = promise(), promise()
        waiting = spawn(gather([kept]))
        kept.finish(7)
        broken.finish(error=ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await broken
        return sum(await waiting)

    assert run(main()) == 7


def test_blocking_calls_run_at_the_same_time() -> None:
    meet = threading.Barrier(3, timeout=5)

    async def main() -> list[int]:
        return await gather([spawn(in_thread(meet.wait)) for _ in range(3)])

    assert sorted(run(main())) == [0, 1, 2]


def test_limiter_bounds_how_many_run_at_once() -> None:
    active: list[int] = []
    peak: list[int] = []

    def work() -> None:
        active.append(1)
        peak.append(len(active))
        time.sleep(0.005)
        active.pop()

    async def main() -> None:
        limiter = Limiter(2)
        await gather([spawn(in_thread(work, limiter=limiter)) for _ in range(12)])

    run(main())
    assert len(peak) == 12
    assert max(peak) == 2


def test_a_task_awaited_twice_runs_once() -> None:
    ran: list[int] = []

    async def once() -> int:
        ran.append(1)
        await in_thread(time.sleep, 0.01)
        return 7

    async def main() -> tuple[int, int]:
        task = spawn(once())

        async def wait() -> int:
            return await task

        first, second = await gather([spawn(wait()), spawn(wait())])
        return first, second

    assert run(main()) == (7, 7)
    assert ran == [1]


def test_first_error_comes_through_at_once_and_the_rest_is_cancelled() -> None:
    released = threading.Event()
    seen: list[str] = []

    async def slow() -> None:
        try:
            await in_thread(released.wait, 10, abort=released.set)
        except Cancelled:
            seen.append("cancelled")
            raise

    async def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        await gather([spawn(slow()), spawn(fail())])

    start = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        run(main())
    assert seen == ["cancelled"]
    assert released.is_set()
    assert time.monotonic() - start < 5


def test_first_done_wakes_for_the_quickest() -> None:
    never = threading.Event()

    async def main() -> list[bool]:
        tasks: list[Task[bool]] = [
            spawn(in_thread(never.wait, 10, abort=never.set)),
            spawn(in_thread(never.wait, 0.01)),
        ]
        await first_done(tasks)
        return [task.done for task in tasks]

    assert run(main()) == [False, True]


def test_what_was_put_off_is_done_once_when_there_is_nothing_else() -> None:
    done: list[str] = []

    async def main() -> None:
        when_idle(lambda: done.append("put off"))
        busy = time.monotonic() + 3 * IDLE_S
        while time.monotonic() < busy:
            await in_thread(done.append, "work")
        assert "put off" not in done
        await in_thread(time.sleep, 3 * IDLE_S)
        await in_thread(time.sleep, 3 * IDLE_S)

    run(main())
    assert done.count("put off") == 1


def test_a_run_that_is_never_idle_ends_without_what_was_put_off() -> None:
    async def main() -> None:
        when_idle(lambda: pytest.fail("there was no time"))
        await in_thread(int)

    run(main())


def test_no_thread_outlives_run() -> None:
    before = threading.active_count()

    async def main() -> None:
        await gather([spawn(in_thread(time.sleep, 0.01)) for _ in range(5)])

    run(main())
    assert threading.active_count() == before


def test_tasks_that_wait_for_each_other_are_reported() -> None:
    async def main() -> None:
        tasks: list[Task[None]] = []

        async def wait_for_itself() -> None:
            await tasks[0]

        tasks.append(spawn(wait_for_itself()))
        await tasks[0]

    with pytest.raises(RuntimeError, match="deadlock"):
        run(main())


def test_ten_thousand_tasks_in_a_chain_need_no_stack() -> None:
    async def main() -> int:
        async def link(before: Task[int] | None) -> int:
            return (await before if before else 0) + 1

        task: Task[int] | None = None
        for _ in range(10_000):
            task = spawn(link(task))
        assert task is not None
        return await task

    assert run(main()) == 10_000


def test_start_runs_up_to_the_first_wait_before_it_returns() -> None:
    steps: list[str] = []

    async def quick() -> str:
        steps.append("quick")
        return "done"

    async def slow() -> str:
        steps.append("slow")
        await in_thread(time.sleep, 0.01)
        return "later"

    async def main() -> list[str]:
        tasks = [start(quick()), start(slow())]
        assert steps == ["quick", "slow"]
        assert [task.succeeded for task in tasks] == [True, False]
        return await gather(tasks)

    assert run(main()) == ["done", "later"]


def test_all_done_waits_for_errors_too_and_raises_none() -> None:
    async def fail() -> None:
        await in_thread(time.sleep, 0.005)
        raise ValueError

    async def main() -> None:
        tasks: list[Task[None]] = [spawn(fail()), spawn(in_thread(time.sleep, 0.02)), start(fail())]
        await all_done(tasks)
        assert [task.succeeded for task in tasks] == [False, True, False]
        await all_done(tasks)

    run(main())


def test_ctrl_c_ends_the_run_between_two_steps_and_not_within_one() -> None:
    steps = []
    released = threading.Event()

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("went on")
        await in_thread(released.wait, 30, abort=released.set)
        steps.append("was not stopped")

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert steps == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_cancellation_from_another_thread_ends_the_run_and_all_that_it_waits_for() -> None:
    cancellation, released = Cancellation(), threading.Event()

    async def main() -> None:
        timer = threading.Timer(0.01, cancellation.cancel)
        timer.start()
        await in_thread(released.wait, 30, abort=released.set)

    with pytest.raises(BuildCancelled, match="was cancelled"):
        run(main(), cancellation=cancellation)
    assert released.is_set()


@pytest.mark.parametrize("line", range(12))
def test_a_signals_handler_may_cancel_in_the_middle_of_anything(line: int) -> None:
    cancellation, calls, lines = Cancellation(), [], []

    def interrupt(frame: FrameType, event: str, _: object) -> object:
        if event == "line" and frame.f_code.co_filename == cancellation_module.__file__:
            lines.append(line)
            if len(lines) == line:
                cancellation.cancel()
        return interrupt

    def listen_and_cancel() -> None:
        sys.settrace(interrupt)  # type: ignore[arg-type]
        cancellation.listen(lambda: calls.append("called"))
        cancellation.cancel()

    thread = threading.Thread(target=listen_and_cancel, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert calls == ["called"]


def test_a_blocking_call_that_asks_is_told_that_its_caller_was_cancelled() -> None:
    cancellation, turns = Cancellation(), []

    def work() -> None:
        turns.append(1)
        cancellation.cancel()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            check_cancelled()
        turns.append(2)

    async def main() -> None:
        try:
            await in_thread(work)
        except Cancelled:
            turns.append(await in_thread(clean_up))  # a call of its own
            raise

    def clean_up() -> int:
        check_cancelled()
        return 3

    with pytest.raises(BuildCancelled):
        run(main(), cancellation=cancellation)
    assert turns == [1, 3]
    check_cancelled()  # outside of any call


def test_so_is_a_thread_that_the_call_has_started() -> None:
    cancellation, ended = Cancellation(), []

    def take_part() -> None:
        try:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                check_cancelled()
        except Cancelled:
            ended.append(True)

    def work() -> None:
        join = start_thread(take_part)
        cancellation.cancel()
        join()

    async def main() -> None:
        await in_thread(work)

    with pytest.raises(BuildCancelled):
        run(main(), cancellation=cancellation)
    assert ended == [True]


def test_what_was_cancelled_before_it_began_does_nothing_that_takes_time() -> None:
    cancellation, steps = Cancellation(), []
    cancellation.cancel()

    async def main() -> None:
        await in_thread(time.sleep, 0)
        steps.append("went on")

    with pytest.raises(BuildCancelled):
        run(main(), cancellation=cancellation)
    assert steps == []


def test_a_cancellation_that_comes_after_the_run_changes_nothing() -> None:
    cancellation = Cancellation()

    async def main() -> int:
        return 7

    assert run(main(), cancellation=cancellation) == 7
    cancellation.cancel()
    assert cancellation.cancelled


def test_a_second_ctrl_c_ends_a_step_that_does_not_end() -> None:
    async def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        run(main())


def test_a_signal_ends_the_work_whenever_it_comes() -> None:
    """Also where a job is handed over, or just before the loop goes to sleep."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.monotonic()
    for number in range(80):
        aborted = threading.Event()
        timer = threading.Timer(0.0001 * number, os.kill, (os.getpid(), signal.SIGINT))

        async def main(aborted: threading.Event = aborted, timer: threading.Timer = timer) -> None:
            timer.start()
            for _ in range(20):
                await gather([spawn(in_thread(aborted.wait, 0.0002)) for _ in range(3)])
            await in_thread(aborted.wait, 60)

        with pytest.raises(KeyboardInterrupt):
            run(main(), abort=aborted.set)
        timer.join()
    signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 50


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_what_a_call_gives_to_one_that_was_cancelled_is_discarded(is_cancelled: bool) -> None:
    discarded: list[str] = []

    async def main() -> None:
        task = start(in_thread(lambda: "made", discard=discarded.append))
        time.sleep(0.2)  # by now it is made, and not yet handed over
        if is_cancelled:
            task.cancel()
        await all_done([task])
        assert task.succeeded is not is_cancelled

    run(main())
    assert discarded == (["made"] if is_cancelled else [])


def test_where_no_thread_can_be_started_the_run_ends_and_says_so() -> None:
    code = (
        "import _thread, os, resource, sys\n"
        "if sys.argv[1:]: import threading\n"
        "from inlay.errors import SolveError\n"
        "from inlay.tasks import Limiter, gather, in_thread, run, start\n"
        "one, begun = Limiter(1), os.pipe()\n"
        "async def call():\n"
        "    return await in_thread(os.read, begun[0], 1, limiter=one)\n"
        "async def main():\n"
        "    busy = start(in_thread(os.read, begun[0], 1))\n"
        "    with open('/proc/self/statm') as file:\n"
        "        limit = int(file.read().split()[0]) * resource.getpagesize() + (16 << 20)\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "    _thread.stack_size(1 << 30)\n"  # there is no room for it, whatever malloc has set aside
        "    for _ in range(2):\n"
        "        try:\n"
        "            await call()\n"
        "        except SolveError as error:\n"
        "            print(error)\n"
        "    os.write(begun[1], b'x')\n"
        "    await gather([busy])\n"
        "    assert await in_thread(int, limiter=one) == 0\n"  # on the thread that there is
        "run(main())\n"
    )
    for words in ([], ["threading"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=20, check=False
        )
        said = "can't start new thread; end other processes, or raise how many there may be "
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count(said) == 2


def test_a_thread_is_started_while_another_one_imports_threading() -> None:
    code = (
        "import sys, types\n"
        "from inlay.tasks import start_thread\n"
        "assert 'threading' not in sys.modules\n"
        "sys.modules['threading'] = types.ModuleType('threading')  # as far as it has come\n"
        "done = []\n"
        "start_thread(lambda: done.append(1))()\n"
        "assert done == [1]\n"
        "del sys.modules['threading']\n"
    )
    source = Path(__file__).parents[1] / "src"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, env={"PYTHONPATH": str(source)})
