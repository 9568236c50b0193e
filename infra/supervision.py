"""A process: its file descriptors, and its supervised tasks. A failed task is logged, and restarts after a pause."""

import asyncio
import gc
import resource
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()


def raise_limit() -> int:
    """Raise the soft limit of open files, often 1,024, to the hard limit, and return it. Each waiting client holds a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def collect_rarely() -> None:
    """Exempt what the start has made from garbage collection, and collect after 50,000 new objects instead of 700.

    A collection stops the event loop: with Python's thresholds it doubled the p99 of acceptances (issue H). Reference counts
    free nearly everything; the collector only finds cycles, which exceptions with their tracebacks make.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Supervisor:
    """Runs named tasks until it is stopped. A task that returns is not restarted.

    Pauses double from the first to the longest. A failed task is down until it has run for `steady_seconds`.
    """

    def __init__(self, *, first_pause_seconds: float = 0.1, longest_pause_seconds: float = 5.0, steady_seconds: float = 10.0):
        self._first_pause = first_pause_seconds
        self._longest_pause = longest_pause_seconds
        self._steady = steady_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._down: set[str] = set()

    @property
    def down(self) -> list[str]:
        return sorted(self._down)

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Start a task. Each restart calls `run` again."""
        self._tasks.append(asyncio.create_task(self._supervise(name, run), name=name))

    async def stop(self) -> None:
        """Cancel all tasks and wait for their end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        loop, pause = asyncio.get_running_loop(), self._first_pause
        while True:
            started = loop.time()
            steady = loop.call_later(self._steady, self._up, name)
            try:
                await run()
            except Exception as error:
                if loop.time() - started >= self._steady:
                    pause = self._first_pause
                self._down.add(name)
                log.exception("task.failed", task=name, restart_seconds=pause, exc_info=error)
            else:
                self._up(name)
                return
            finally:
                steady.cancel()
            await asyncio.sleep(pause)
            pause = min(self._longest_pause, 2 * pause)

    def _up(self, name: str) -> None:
        if name in self._down:
            self._down.remove(name)
            log.info("task.up", task=name)
