"""Several processes on one port answer with the sum of all. A dead process keeps its counts and loses its gauges."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.monitoring import SHARED_FOLDER_VARIABLE
from tests.support.metrics import Scrape


class Child:
    """A process that counts, and answers with the metrics of all."""

    def __init__(self, count: int, redis: int, folder: Path):
        command = [sys.executable, "-m", "tests.support.counting", str(count), str(redis)]
        environment = {**os.environ, SHARED_FOLDER_VARIABLE: str(folder)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def scrape(self) -> Scrape:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Scrape("".join(iter(self.process.stdout.readline, "END\n")))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def children(tmp_path: Path) -> Iterator[tuple[Child, Child]]:
    both = Child(3, 1, tmp_path), Child(4, 0, tmp_path)
    yield both
    for child in both:
        child.kill()


def test_counts_are_summed_and_the_gauges_of_a_dead_process_vanish(children: tuple[Child, Child]) -> None:
    first, second = children
    second.scrape()  # it has counted
    for child in children:
        found = child.scrape()
        assert found.values("posthaste_jobs_accepted_total", kind="message", provider="sandbox") == [7]
        assert found.values("posthaste_http_request_duration_seconds_count", route="/messages") == [2]
        assert found.values("posthaste_dependency_up", dependency="redis") == [0]  # the least of all
        found.check()
    second.kill()
    found = first.scrape()
    assert found.values("posthaste_jobs_accepted_total", kind="message", provider="sandbox") == [7]
    assert found.values("posthaste_dependency_up", dependency="redis") == [1]
