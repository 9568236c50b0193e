"""Lanes on the workers of a Dask cluster, through the executor interface of its client. It needs the extra `dask`.

A Dask worker needs Posthaste installed, and the database's URL in its own environment: the scheduler and its dashboard see the
arguments of each call. Dask itself counts the partitions of a dead worker on another one.
"""

import asyncio
from concurrent.futures import Executor
from importlib.util import find_spec
from typing import Any

import psycopg2

from consumers.reports.counting import UnexpectedFormat
from consumers.reports.lanes import LaneLost, LanesUnavailable
from consumers.reports.partition import NotConfigured, Partition, PartitionResult, SnapshotLost, count_partition

CONNECT_SECONDS = 10
MOST_LANES = 512
_PER_THREAD = 2  # the next partition waits at the worker while a result is stored


def is_installed() -> bool:
    """Whether the extra `dask` is installed."""
    return find_spec("distributed") is not None


class DaskLanes:
    """Lanes of the cluster of one scheduler, such as `tcp://127.0.0.1:8786`. The client connects at the first report."""

    def __init__(self, scheduler: str):
        self._scheduler = scheduler
        self._client: Any = None
        self._executor: Executor | None = None

    async def open(self) -> int:
        """Two lanes for each thread of the cluster's workers."""
        try:
            threads = await asyncio.to_thread(self._connect)
        except (OSError, TimeoutError) as error:
            self.close()
            raise LanesUnavailable(f"no contact with the Dask scheduler {self._scheduler}: {error}") from error
        if not threads:
            raise LanesUnavailable(f"the Dask scheduler {self._scheduler} has no worker")
        return min(_PER_THREAD * threads, MOST_LANES)

    def _connect(self) -> int:
        from distributed import Client

        if self._client is not None and self._client.status != "running":
            self.close()
        if self._client is None:
            create: Any = Client  # untyped
            self._client = create(self._scheduler, timeout=CONNECT_SECONDS, set_as_default=False, name="posthaste")
            self._executor = self._client.get_executor(pure=False)
        return sum(self._client.nthreads().values())

    async def count(self, lane: int, partition: Partition) -> PartitionResult:
        if self._executor is None:
            raise LanesUnavailable("the contact with the Dask scheduler is lost")
        counted = asyncio.wrap_future(self._executor.submit(count_partition, partition))
        try:
            await asyncio.wait({counted})
        except asyncio.CancelledError:  # a running partition ends at its worker; a waiting one does not start
            counted.cancel()
            raise
        if counted.cancelled():
            self.close()
            raise LanesUnavailable("the Dask scheduler lost the partition")
        error = counted.exception()
        if error is None:
            return counted.result()
        if isinstance(error, psycopg2.Error | SnapshotLost | NotConfigured | UnexpectedFormat):
            raise error
        if type(error).__name__ == "KilledWorker":
            raise LaneLost(str(error)) from error
        raise LanesUnavailable(f"a Dask worker cannot count: {error!r}") from error

    def close(self) -> None:
        client, self._client, self._executor = self._client, None, None
        if client is not None:
            client.close(timeout=1)
