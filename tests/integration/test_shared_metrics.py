"""Several processes on one port answer with the sum of all. A dead process keeps its counts and loses its gauges."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from infra.monitoring import exposition
from tests.support.metrics import Scrape


class Child:
    """A process that counts, and answers with the metrics of all."""

    def __init__(self, count: int, redis: int):
        command = [sys.executable, "-m", "tests.support.counting", str(count), str(redis)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

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


@contextmanager
def _children() -> Iterator[list[Child]]:
    with exposition.shared_folder():
        children = [Child(3, redis=1), Child(4, redis=0)]
        try:
            yield children
        finally:
            for child in children:
                child.kill()


def test_counts_are_summed_and_the_gauges_of_a_dead_process_vanish() -> None:
    with _children() as (first, second):
        second.scrape()  # it has counted
        for child in (first, second):
            found = child.scrape()
            assert found.values("posthaste_jobs_accepted_total", kind="message", provider="sandbox") == [7]
            assert found.values("posthaste_http_request_duration_seconds_count", route="/messages") == [2]
            assert found.values("posthaste_dependency_up", dependency="redis") == [0]  # the least of all
            found.check()
        second.kill()
        exposition.forget_process(second.process.pid)
        found = first.scrape()
        assert found.values("posthaste_jobs_accepted_total", kind="message", provider="sandbox") == [7]
        assert found.values("posthaste_dependency_up", dependency="redis") == [1]


def test_the_folder_ends_with_its_context() -> None:
    with exposition.shared_folder():
        folder = os.environ[exposition.FOLDER_VARIABLE]
        assert os.path.isdir(folder)
    assert exposition.FOLDER_VARIABLE not in os.environ and not os.path.exists(folder)
