"""Lanes: the executors that count partitions, one partition a lane at a time.

By default each lane is a process pool of one process: a pool of several ends with its first dead process. The processes are
kept for the next report. `dask_lanes` has those of other machines. Like `lane_process`, this module imports little.
"""

import asyncio
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from consumers.reports.lane_process import FORKS, count, prepare, start_server

if TYPE_CHECKING:
    from consumers.reports.partition import Partition, PartitionResult

START_TRIES = 20  # of a process, within a second


class LaneLost(Exception):
    """The process of a lane died, or did not start. Its partition has no result."""


class LanesUnavailable(Exception):
    """No lane can count now; a later attempt may."""


class Lanes(Protocol):
    """Executors of partitions."""

    async def open(self) -> int:
        """The number of lanes. Raises `LaneLost`, `LanesUnavailable`."""
        ...

    async def count(self, lane: int, partition: "Partition") -> "PartitionResult":
        """Count a partition in a lane; a cancelled call frees the lane.

        Raises:
            LaneLost, LanesUnavailable: see there. Also what `count_partition` raises.
        """
        ...

    def close(self) -> None:
        """End the lanes. The next call opens them again."""
        ...


class ProcessLanes:
    """Lanes that are processes of this machine. The server starts now, a lane when it is needed. `url`: of the database."""

    def __init__(self, processes: int, url: str):
        self._url = url
        self._lanes: list[_Process | None] = [None] * processes
        start_server()

    async def open(self) -> int:
        await self._started(0)  # it connects while the snapshot is taken; a small report needs no other
        return len(self._lanes)

    async def _started(self, lane: int) -> "_Process":
        """The process of a lane. A thread waits for its start: the server may still import."""
        process = self._lanes[lane]
        return await asyncio.to_thread(self._process, lane) if process is None else process

    def _process(self, lane: int) -> "_Process":
        process = self._lanes[lane]
        if process is None:
            process = self._lanes[lane] = _start()
        return process

    async def count(self, lane: int, partition: "Partition") -> "PartitionResult":
        try:
            process = await self._started(lane)
            return await process.count(replace(partition, url=self._url))
        except BrokenProcessPool as error:
            self._end(lane)
            raise LaneLost(str(error)) from error
        except asyncio.CancelledError:  # the process counts on, or waits for Postgres
            self._end(lane)
            raise

    def close(self) -> None:
        for lane in range(len(self._lanes)):
            self._end(lane)

    def _end(self, lane: int) -> None:
        process, self._lanes[lane] = self._lanes[lane], None
        if process is not None:
            process.end()


def _start() -> "_Process":
    """Start a process. A server that is just dying refuses connections; the next call starts another server.

    Raises:
        LaneLost: the server failed again and again.
    """
    for tries in range(1, START_TRIES + 1):
        try:
            return _Process()
        except (ConnectionError, EOFError) as error:
            if tries == START_TRIES:
                raise LaneLost(f"the server of the lanes failed: {error!r}") from error
            time.sleep(0.05)
    raise AssertionError("unreachable")


class _Process:
    """One process."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=FORKS, initializer=prepare)
        self._pid = self._pool.submit(os.getpid)

    async def count(self, partition: "Partition") -> "PartitionResult":
        return await asyncio.wrap_future(self._pool.submit(count, partition))

    def end(self) -> None:
        """Kill the process. One that still starts ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._pid.done() and not self._pid.cancelled() and self._pid.exception() is None:
            for child in multiprocessing.active_children():
                if child.pid == self._pid.result():
                    child.kill()
