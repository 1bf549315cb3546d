"""From synchronous code into asyncio: one event loop per process, in a thread of its own.

    bridge = Bridge()
    bridge.run(some_async_function, argument)      # from any thread, many at a time

The loop is made on first use, so nothing crosses a fork, and lives until `close()`: connections and
clients opened with `await bridge.shared(...)` serve every later call. The same code works in Celery's
prefork, solo and threads pools, in eager mode and in a plain script.
"""

import asyncio
import atexit
import contextvars
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, ParamSpec, TypeVar

import structlog

# How long a cancelled coroutine may take for its clean-up before the caller stops waiting for it.
CLEAN_UP_SECONDS = 10.0
LOOK_SECONDS = 1.0  # how often a caller looks whether the loop was closed meanwhile
BLOCKED_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger(__name__)


class Bridge:
    """Runs coroutines of synchronous callers on this process's loop thread."""

    def __init__(
        self, soft_limit_seconds: float | None = None, hard_limit_seconds: float | None = None
    ) -> None:
        """After `soft_limit_seconds` a coroutine is cancelled, and `run` raises TimeoutError.

        One that still runs after `hard_limit_seconds` takes its process with it (SIGKILL): only for
        processes that somebody replaces, such as the children of a prefork pool.
        """
        self.hard_limit_seconds = hard_limit_seconds
        self._soft_limit_seconds = soft_limit_seconds
        self._lock = threading.Lock()
        self._loop_thread: _LoopThread | None = None
        os.register_at_fork(after_in_child=self._forget)

    def run(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Wait for `function(*args, **kwargs)` and return its result or raise its exception.

        When the wait itself is interrupted (Celery's soft limit, SystemExit, KeyboardInterrupt) the
        coroutine is cancelled and its clean-up awaited before the interruption goes on. One that ignores
        this for CLEAN_UP_SECONDS takes its process with it, where there is a hard limit.
        Raises RuntimeError when called inside a running event loop, which it would block.
        """
        if is_in_running_loop():
            raise RuntimeError(
                "bridge.run() would block the running event loop: "
                f"write `await {function.__qualname__}(...)` instead"
            )
        coroutine = self._within_soft_limit(function(*args, **kwargs))
        return self._started().run(coroutine, function.__qualname__, self.hard_limit_seconds)

    async def shared(self, open_resource: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """What `open_resource()` yields: entered on first use, left when the loop closes.

        A failure to enter is raised to everybody who waits for it; the next call tries again.
        """
        return await self._started().shared(open_resource)

    def close(self) -> None:
        """Cancel what runs, leave what is shared, end the thread. The next `run` makes a new one."""
        with self._lock:
            loop_thread, self._loop_thread = self._loop_thread, None
        if loop_thread is not None:
            loop_thread.close()

    async def _within_soft_limit(self, coroutine: Coroutine[Any, Any, T]) -> T:
        async with asyncio.timeout(self._soft_limit_seconds):
            return await coroutine

    def _started(self) -> "_LoopThread":
        with self._lock:
            if self._loop_thread is None:
                self._loop_thread = _LoopThread()
                atexit.register(self.close)
            return self._loop_thread

    def _forget(self) -> None:
        """In a forked child the parent's thread does not exist, and its lock may be held for ever."""
        self._lock = threading.Lock()
        self._loop_thread = None


class _LoopThread:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._resources: dict[Callable[[], Any], _OpenResource[Any]] = {}
        self._last_turn = time.monotonic()
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run_loop, name="bridge", daemon=True)
        self._thread.start()
        threading.Thread(target=self._name_blockers, name="bridge-watch", daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, T], name: str, hard_limit_seconds: float | None) -> T:
        call = _Call(self._loop, coroutine, name)
        try:
            self._loop.call_soon_threadsafe(call.begin)
            if not call.is_over(hard_limit_seconds):
                _end_process(name)
        except BaseException as interruption:
            if self._loop.is_closed():  # by another thread
                call.forget()
                raise asyncio.CancelledError from interruption
            if not call.is_done:
                self._loop.call_soon_threadsafe(call.cancel)
                if not call.is_over(CLEAN_UP_SECONDS):
                    if hard_limit_seconds is not None:
                        _end_process(name)
                    log.error("a coroutine ignored that it was cancelled; it runs on", task=name)
            raise
        return call.result()

    async def shared(self, open_resource: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        resource = self._resources.get(open_resource)
        if resource is None or resource.has_failed:
            resource = self._resources[open_resource] = _OpenResource(open_resource())
        return await asyncio.shield(resource.opened)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(2 * CLEAN_UP_SECONDS)
        self._is_closed.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLEAN_UP_SECONDS)

    async def _shut_down(self) -> None:
        resources = list(self._resources.values())
        spared = {asyncio.current_task(), *(resource.task for resource in resources)}
        users = [task for task in asyncio.all_tasks() if task not in spared]
        for user in users:
            user.cancel()
        if users:
            await asyncio.wait(users, timeout=CLEAN_UP_SECONDS)
        for resource in reversed(resources):
            await resource.close()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._note_turn)
        self._loop.run_forever()
        self._loop.close()

    def _note_turn(self) -> None:
        self._last_turn = time.monotonic()
        self._loop.call_later(BLOCKED_SECONDS / 4, self._note_turn)

    def _name_blockers(self) -> None:
        """Log, once a blockage, which task keeps the loop from turning, and where it stands."""
        named_turn = 0.0
        while not self._is_closed.wait(BLOCKED_SECONDS / 2):
            turn = self._last_turn
            if time.monotonic() - turn < BLOCKED_SECONDS or turn == named_turn:
                continue
            named_turn = turn
            task = asyncio.current_task(self._loop)
            frame = sys._current_frames().get(self._thread.ident or 0)
            log.warning(
                "the event loop is blocked",
                task=task.get_name() if task else None,
                at="".join(traceback.format_stack(frame, limit=3)) if frame else None,
            )


class _Call(Generic[T]):
    """A coroutine on the loop, and the thread that waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], name: str) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._name = name
        self._task: asyncio.Task[T] | None = None
        # A bare lock: a signal may interrupt the waiting thread anywhere, and Future or Event could keep a
        # lock inside them for ever, on which the loop would then hang.
        self._over = threading.Lock()
        self._over.acquire()

    @property
    def is_done(self) -> bool:
        return self._task is not None and self._task.done()

    def begin(self) -> None:
        """On the loop."""
        self._task = self._loop.create_task(self._coroutine, name=self._name)
        self._task.add_done_callback(lambda _: self._over.release())

    def cancel(self) -> None:
        """On the loop."""
        if self._task is not None:
            self._task.cancel()
        else:  # interrupted before `begin` was handed to the loop
            self._coroutine.close()
            self._over.release()

    def is_over(self, seconds: float | None) -> bool:
        """Waits so long, or for ever. Raises CancelledError when the loop was closed and nothing can end."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while not self._over.acquire(timeout=min(LOOK_SECONDS, max(0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return False
            if self._loop.is_closed():
                if self.is_done:
                    break
                raise asyncio.CancelledError
        return True

    def forget(self) -> None:
        """The loop is closed: what has not begun never will."""
        if self._task is None:
            self._coroutine.close()

    def result(self) -> T:
        assert self._task is not None
        return self._task.result()


class _OpenResource(Generic[T]):
    """A task that enters a context, and leaves it again when told: both in the same task."""

    def __init__(self, context: AbstractAsyncContextManager[T]) -> None:
        self.opened: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        # in no caller's context: it outlives the call whose ids would stand in its log lines
        self.task = asyncio.create_task(self._keep(context), context=contextvars.Context())

    @property
    def has_failed(self) -> bool:
        return self.opened.done() and (self.opened.cancelled() or self.opened.exception() is not None)

    async def close(self) -> None:
        self._closing.set()
        await asyncio.wait([self.task], timeout=CLEAN_UP_SECONDS)

    async def _keep(self, context: AbstractAsyncContextManager[T]) -> None:
        try:
            async with context as resource:
                self.opened.set_result(resource)
                await self._closing.wait()
        except BaseException as error:
            if self.opened.done():
                log.exception("closing a shared resource failed")
            else:
                self.opened.set_exception(error)


def is_in_running_loop() -> bool:
    """Whether this thread runs an event loop, which must not be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _end_process(task_name: str) -> None:
    log.error("a coroutine ignored its limits; this process ends", task=task_name)
    os.kill(os.getpid(), signal.SIGKILL)
