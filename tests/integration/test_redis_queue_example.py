"""`examples/redis_queue.py`: one worker handles each job, and another takes over a dead worker's jobs."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from examples import redis_queue
from examples.redis_queue import Queue
from tests.support.services import Services

FILE = Path(redis_queue.__file__)


@pytest.fixture
def queue(services: Services, namespace: str) -> Iterator[Queue]:
    queue = Queue(Redis.from_url(services.redis, decode_responses=True), namespace)
    yield queue
    queue.delete()


def test_a_job_goes_to_one_worker_and_is_gone_when_finished(queue: Queue) -> None:
    id_ = queue.submit("+1", "hello")
    assert queue.status(id_) == "queued"
    entry = queue.claim("first", 10)
    assert entry is not None and entry[1] == {"id": id_, "destination": "+1", "body": "hello"}
    assert queue.claim("second", 10) is None
    queue.finish(entry, "sent")
    assert queue.status(id_) == "sent"
    assert queue.claim("first", 10) is None


def test_jobs_of_a_dead_worker_go_to_a_living_one(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_queue, "IDLE_MS", 100)
    queue.submit("+1", "hello")
    claim = queue.claim("dead", 10)
    deadline = time.monotonic() + 5
    while (claimed := queue.claim("living", 10)) is None and time.monotonic() < deadline:
        pass
    assert claimed == claim and claimed is not None
    assert queue.deliveries(claimed) == 2


def test_a_job_that_no_worker_can_finish_becomes_a_dead_letter(queue: Queue, services: Services) -> None:
    id_ = queue.submit("+1", "hello")
    entry = queue.claim("worker", 10)
    assert entry is not None
    queue.finish(entry, "failed", dead=True)
    assert queue.status(id_) == "failed"
    assert Redis.from_url(services.redis, decode_responses=True).xlen(queue.dead) == 1


def test_the_demo_survives_a_killed_worker(services: Services, namespace: str) -> None:
    command = [sys.executable, str(FILE), "--redis", services.redis, "--prefix", namespace, "demo", "--count", "30"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert ran.returncode == 0, ran.stderr
    assert "30 submitted, one of two workers killed, 30 sent" in ran.stdout
