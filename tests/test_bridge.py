"""The bridge, used as a plain script, a pool of threads and a forked child would use it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from app.bridge import Bridge
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.databases import empty_broker
from tests.processes import WorkerProcess


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    bridge = Bridge()
    yield bridge
    bridge.close()


async def in_thread(function, *arguments):
    """The tests run inside an event loop, where the bridge refuses to be called."""
    return await asyncio.to_thread(function, *arguments)


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def test_a_result_comes_back(bridge: Bridge) -> None:
    assert await in_thread(bridge.run, double, 21) == 42


async def test_an_exception_comes_back_as_it_is(bridge: Bridge) -> None:
    async def fail() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        await in_thread(bridge.run, fail)


async def test_a_call_inside_a_running_loop_is_refused_with_what_to_write(bridge: Bridge) -> None:
    with pytest.raises(RuntimeError, match=r"await double\(\.\.\.\)"):
        bridge.run(double, 1)


async def test_wrong_arguments_raise_instead_of_hanging(bridge: Bridge) -> None:
    with pytest.raises(TypeError):
        await in_thread(bridge.run, double)


async def test_many_threads_share_one_loop(bridge: Bridge) -> None:
    async def loop_and_double(number: int) -> tuple[int, int]:
        await asyncio.sleep(0.01)
        return id(asyncio.get_running_loop()), 2 * number

    def run_all() -> list[tuple[int, int]]:
        with ThreadPoolExecutor(16) as threads:
            return list(threads.map(lambda number: bridge.run(loop_and_double, number), range(200)))

    results = await in_thread(run_all)
    assert [result for _, result in results] == [2 * number for number in range(200)]
    assert len({loop for loop, _ in results}) == 1


async def test_an_error_of_the_work_is_logged_without_one_of_the_bridge(bridge: Bridge) -> None:
    async def fail() -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full") as caught:
        await in_thread(bridge.run, fail)
    assert caught.value.__context__ is None


async def test_somebody_elses_asyncio_run_does_no_harm(bridge: Bridge) -> None:
    def mixed() -> list[int]:
        return [bridge.run(double, 1), asyncio.run(double(2)), bridge.run(double, 3)]

    assert await in_thread(mixed) == [2, 4, 6]


async def test_at_the_soft_limit_the_clean_up_is_awaited() -> None:
    bridge = Bridge(soft_limit_seconds=0.1)
    cleaned = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            cleaned.append(True)

    with pytest.raises(TimeoutError):
        await in_thread(bridge.run, slow)
    assert cleaned == [True]
    bridge.close()


SCRIPT = """
import asyncio, os, signal, sys, threading
from app.bridge import Bridge

bridge = Bridge({options})
"""


def run_script(body: str, options: str = "", timeout: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(options=options) + body],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_an_interrupted_wait_cancels_the_coroutine_and_awaits_its_clean_up() -> None:
    done = run_script("""
class Interruption(Exception): pass

def interrupt(*_):
    raise Interruption

signal.signal(signal.SIGALRM, interrupt)
events = []

async def slow():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0.2)
        events.append("cleaned")
        raise

signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    bridge.run(slow)
except Interruption:
    events.append("interrupted")

async def others():
    return len(asyncio.all_tasks()) - 1

print(events, bridge.run(others))
""")
    assert done.stdout.strip() == "['cleaned', 'interrupted'] 0", done.stderr


def test_a_coroutine_that_ignores_cancelling_ends_with_its_process_at_the_hard_limit() -> None:
    done = run_script(
        """
async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

bridge.run(stubborn)
""",
        options="soft_limit_seconds=0.2, hard_limit_seconds=0.6",
    )
    assert done.returncode == -signal.SIGKILL
    assert "ignored its limits" in done.stdout + done.stderr


def test_an_interrupted_coroutine_that_ignores_cancelling_ends_with_its_process() -> None:
    done = run_script(
        """
import app.bridge

class Interruption(Exception): pass

def interrupt(*_):
    raise Interruption

async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

app.bridge.CLEAN_UP_SECONDS = 0.5
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.3)
bridge.run(stubborn)
""",
        options="hard_limit_seconds=60",
    )
    assert done.returncode == -signal.SIGKILL
    assert "ignored its limits" in done.stdout + done.stderr


def test_an_interruption_at_any_moment_leaves_nothing_running() -> None:
    done = run_script("""
import time, warnings

class Interruption(Exception): pass

def interrupt(*_):
    raise Interruption

async def brief():
    await asyncio.sleep(0.0005)

async def others():
    return len(asyncio.all_tasks()) - 1

warnings.simplefilter("ignore")  # what is interrupted before it began was never awaited
bridge.run(brief)
signal.signal(signal.SIGALRM, interrupt)
slowest = 0.0
interrupted = 0
for number in range(400):
    started = time.monotonic()
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00001 + number * 0.000005)
            bridge.run(brief)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interruption:
        interrupted += 1
    slowest = max(slowest, time.monotonic() - started)
print(interrupted > 20, slowest < 2, bridge.run(others))
""")
    assert done.stdout.strip() == "True True 0", done.stderr


def test_a_bridge_closed_while_threads_use_it_leaves_none_waiting() -> None:
    done = run_script("""
import sys, threading, time, warnings

async def brief():
    await asyncio.sleep(0)

warnings.simplefilter("ignore")  # what is cancelled before it began was never awaited
sys.setswitchinterval(1e-6)  # so that threads meet at awkward moments
is_over = False
surprises = []

def use():
    while not is_over:
        try:
            bridge.run(brief)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            surprises.append(repr(error))

threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(200):
    time.sleep(0.001)
    bridge.close()
is_over = True
for thread in threads:
    thread.join(3)
print(sum(thread.is_alive() for thread in threads), surprises[:1])
""")
    assert done.stdout.strip() == "0 []", done.stderr


def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    done = run_script("""
async def pid():
    return os.getpid()

assert bridge.run(pid) == os.getpid()
child = os.fork()
if child == 0:
    os._exit(0 if bridge.run(pid) == os.getpid() else 1)
print(os.waitpid(child, 0)[1], bridge.run(pid) == os.getpid())
""")
    assert done.stdout.strip() == "0 True", done.stderr


def test_a_script_ends_by_itself_and_leaves_what_is_shared() -> None:
    done = run_script("""
from contextlib import asynccontextmanager

@asynccontextmanager
async def resource():
    yield "opened"
    print("closed")

async def use():
    return await bridge.shared(resource)

print(bridge.run(use))
""")
    assert done.stdout.split() == ["opened", "closed"], done.stderr


async def test_what_is_shared_is_opened_once_and_closed_by_the_task_that_opened_it(bridge: Bridge) -> None:
    events: list[tuple[str, asyncio.Task | None]] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[object]:
        events.append(("opened", asyncio.current_task()))
        yield object()
        events.append(("closed", asyncio.current_task()))

    async def use() -> object:
        return await bridge.shared(resource)

    def use_often() -> set[int]:
        with ThreadPoolExecutor(8) as threads:
            return {id(used) for used in threads.map(lambda _: bridge.run(use), range(50))}

    assert len(await in_thread(use_often)) == 1
    await in_thread(bridge.close)
    assert [name for name, _ in events] == ["opened", "closed"]
    assert events[0][1] is events[1][1]


async def test_a_resource_that_failed_to_open_is_tried_again(bridge: Bridge) -> None:
    attempts = []

    @asynccontextmanager
    async def flaky() -> AsyncIterator[str]:
        attempts.append(True)
        if len(attempts) == 1:
            raise ConnectionError
        yield "open"

    async def use() -> str:
        return await bridge.shared(flaky)

    with pytest.raises(ConnectionError):
        await in_thread(bridge.run, use)
    assert await in_thread(bridge.run, use) == "open"


async def test_closing_cancels_what_runs_and_the_next_run_starts_anew(bridge: Bridge) -> None:
    started = threading.Event()
    cancelled = []

    async def wait_for_ever() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    waiting = asyncio.create_task(in_thread(bridge.run, wait_for_ever))
    await in_thread(started.wait, 5)
    await in_thread(bridge.close)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert cancelled == [True]
    assert await in_thread(bridge.run, double, 2) == 4


async def test_a_coroutine_that_blocks_the_loop_is_named_in_the_log(
    bridge: Bridge, capsys: pytest.CaptureFixture[str]
) -> None:
    async def block_the_loop() -> None:
        time.sleep(2)  # noqa: ASYNC251 - the fault under test

    await in_thread(bridge.run, block_the_loop)
    logged = capsys.readouterr().out
    assert "the event loop is blocked" in logged
    assert "block_the_loop" in logged


async def test_nothing_is_left_behind(bridge: Bridge) -> None:
    def count() -> tuple[int, int]:
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
        return len(threads), len(os.listdir("/proc/self/fd"))  # asyncio_: those of to_thread, in this test

    await in_thread(bridge.run, double, 1)
    await in_thread(bridge.close)
    before = count()
    for _ in range(20):
        await in_thread(bridge.run, double, 1)
        await in_thread(bridge.close)
    deadline = time.monotonic() + 10
    while any(now > then + 1 for now, then in zip(count(), before, strict=True)):
        assert time.monotonic() < deadline, (count(), before)
        await asyncio.sleep(0.05)


@pytest.fixture
def prefork_client(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[Celery]:
    broker_url = empty_broker(valkey, 8)
    environment = {"DATABASE_URL": postgres.url("postgres"), "CELERY_BROKER_URL": broker_url}
    worker = WorkerProcess(environment, tmp_path / "log", "--concurrency", "1", app="tests.bridge_tasks")
    with Celery(broker=broker_url, backend=broker_url) as client, worker:
        yield client


@pytest.mark.heavy
async def test_celerys_own_soft_limit_leaves_nothing_running_in_the_next_task(
    prefork_client: Celery,
) -> None:
    def count() -> dict[str, int]:
        return dict(prefork_client.send_task("count").get(timeout=20))

    await in_thread(prefork_client.send_task("query", args=[1]).get, 20)
    before = await in_thread(count)
    limited = prefork_client.send_task("hold", soft_time_limit=1)
    with pytest.raises(SoftTimeLimitExceeded):
        await in_thread(limited.get, 20)
    assert await in_thread(count) == before | {"cleaned": 1}
