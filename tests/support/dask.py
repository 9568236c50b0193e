"""A real Dask cluster on this machine: a scheduler and workers, each a process."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dev.ports import free_port
from dev.stack import environment_without_settings


@dataclass
class Cluster:
    """`database`: the URL in the workers' environment; None: they have none."""

    folder: str
    database: str | None
    port: int = field(default_factory=free_port)
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start_scheduler(self) -> "subprocess.Popen[bytes]":
        return self._start("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard", "--no-show")

    def start_worker(self) -> "subprocess.Popen[bytes]":
        return self._start(
            "dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"
        )  # fmt: skip

    def _start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        environment = {**environment_without_settings(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment |= {} if self.database is None else {"POSTHASTE_DATABASE_URL": self.database}
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
            env=environment, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.processes.append(process)
        return process


@contextmanager
def cluster_of(database: str | None, workers: int = 2) -> Iterator[Cluster]:
    """A cluster with one thread a worker. It is killed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(folder, database)
        cluster.start_scheduler()
        for _ in range(workers):
            cluster.start_worker()
        try:
            yield cluster
        finally:
            for process in cluster.processes:
                process.kill()
                process.wait()
