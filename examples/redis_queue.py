"""The exercise's base version on a Redis Stream, in one file: what a job queue needs, with nothing but Redis.

    python examples/redis_queue.py demo                    # two workers, one is killed in mid-work, nothing is lost
    python examples/redis_queue.py submit +15550001 Hello  # prints an id
    python examples/redis_queue.py work                    # one worker, until Ctrl-C
    python examples/redis_queue.py status ID

Why a stream, and not a list or a sorted set: a consumer group remembers who has taken what. `XREADGROUP` hands each entry to
one worker and keeps it pending until `XACK`; `XAUTOCLAIM` gives what a dead worker held to a living one. A list needs `LMOVE`
into a list of one's own for that, and somebody who watches those lists; a sorted set orders by time, and needs a lock to take.

What it does not do, and Posthaste does: survive the loss of Redis (the queue is the only copy), delay a retry, or say what
became of each attempt. An entry may be worked on twice, if its worker is slow and not dead: the work must bear that.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import uuid
from typing import cast

from redis import Redis
from redis.exceptions import ResponseError

GROUP = "workers"
IDLE_MS = 2000  # a worker that has not acknowledged for so long counts as dead
DELIVERIES = 5  # then the entry is moved to the dead stream
STATUS_SECONDS = 24 * 3600

Entry = tuple[str, dict[str, str]]


class Queue:
    """A job queue under one prefix: a stream of work, a stream of dead letters, and a status for each job."""

    def __init__(self, redis: "Redis", prefix: str):
        self._redis = redis
        self._work = f"{prefix}:work"
        self.dead = f"{prefix}:dead"
        self._prefix = prefix
        try:
            redis.xgroup_create(self._work, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # that is: somebody has created it before us
                raise

    def submit(self, destination: str, body: str) -> str:
        """Queue one message and return its id. Status and entry are written together, or not at all."""
        id_ = str(uuid.uuid4())
        with self._redis.pipeline(transaction=True) as both:
            both.set(self._status_key(id_), "queued", ex=STATUS_SECONDS)
            both.xadd(self._work, {"id": id_, "destination": destination, "body": body})
            both.execute()
        return id_

    def status(self, id_: str) -> str | None:
        return cast("str | None", self._redis.get(self._status_key(id_)))

    def take(self, worker: str, wait_ms: int = 500) -> Entry | None:
        """The next entry for this worker: first one whose worker is dead, else a new one; None after `wait_ms`."""
        _, claimed, _ = cast(
            "tuple[str, list[Entry], list[str]]", self._redis.xautoclaim(self._work, GROUP, worker, IDLE_MS, count=1)
        )
        if claimed:
            return claimed[0]
        answer = cast(
            "list[tuple[str, list[Entry]]]", self._redis.xreadgroup(GROUP, worker, {self._work: ">"}, count=1, block=wait_ms)
        )
        return answer[0][1][0] if answer else None

    def deliveries(self, entry: Entry) -> int:
        """How often the entry has been handed out, this time included."""
        pending = cast("list[dict[str, int]]", self._redis.xpending_range(self._work, GROUP, entry[0], entry[0], 1))
        return pending[0]["times_delivered"] if pending else 1

    def mark(self, entry: Entry, status: str) -> None:
        self._redis.set(self._status_key(entry[1]["id"]), status, ex=STATUS_SECONDS)

    def finish(self, entry: Entry, status: str, *, dead: bool = False) -> None:
        """Record what became of an entry and forget it, in one transaction; a dead one is kept in the dead stream."""
        with self._redis.pipeline(transaction=True) as all_:
            all_.set(self._status_key(entry[1]["id"]), status, ex=STATUS_SECONDS)
            if dead:
                all_.xadd(self.dead, dict(entry[1].items()))
            all_.xack(self._work, GROUP, entry[0])
            all_.xdel(self._work, entry[0])
            all_.execute()

    def delete(self) -> None:
        """Delete both streams; statuses expire."""
        self._redis.delete(self._work, self.dead)

    def _status_key(self, id_: str) -> str:
        return f"{self._prefix}:status:{id_}"


def send(destination: str, body: str, seconds: float) -> bool:
    """Stands for the slow provider of the exercise; True: accepted."""
    time.sleep(seconds)
    return True


def work(queue: Queue, name: str, provider_seconds: float) -> None:
    """Take, send, record, until SIGINT or SIGTERM; what is in hand is finished first."""
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopping.append(received))
    while not stopping:
        entry = queue.take(name)
        if entry is None:
            continue
        if queue.deliveries(entry) > DELIVERIES:
            queue.finish(entry, "failed", dead=True)
            continue
        queue.mark(entry, "processing")
        if send(entry[1]["destination"], entry[1]["body"], provider_seconds):
            queue.finish(entry, "sent")
        else:
            queue.mark(entry, "retrying")  # not acknowledged: it comes back after IDLE_MS


def demo(queue: Queue, url: str, prefix: str, count: int) -> int:
    """Two workers, one killed in mid-work; 0 only if every message is sent all the same."""
    command = [sys.executable, __file__, "--redis", url, "--prefix", prefix, "work"]
    workers = [subprocess.Popen(command) for _ in range(2)]
    try:
        ids = [queue.submit(f"+1555{n:07}", f"Hello {n}") for n in range(count)]
        started = time.monotonic()
        while not any(queue.status(id_) == "sent" for id_ in ids):
            time.sleep(0.01)
        workers[0].kill()
        deadline = time.monotonic() + 60
        while (sent := sum(queue.status(id_) == "sent" for id_ in ids)) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        print(f"{count} submitted, one of two workers killed, {sent} sent after {time.monotonic() - started:.1f} s")
        return 0 if sent == count else 1
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
        queue.delete()


def main() -> int:
    parser = argparse.ArgumentParser(description="A job queue on a Redis Stream.")
    parser.add_argument("--redis", default=os.environ.get("POSTHASTE_REDIS_URL", "redis://127.0.0.1:6379/0"))
    parser.add_argument("--prefix", default="example", help="begins every key")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo").add_argument("--count", type=int, default=100)
    worker = commands.add_parser("work")
    worker.add_argument("--provider-seconds", type=float, default=0.05, help="how long each message takes")
    submit = commands.add_parser("submit")
    submit.add_argument("destination")
    submit.add_argument("body")
    commands.add_parser("status").add_argument("id")
    options = parser.parse_args()
    queue = Queue(Redis.from_url(options.redis, decode_responses=True), options.prefix)
    if options.command == "demo":
        return demo(queue, options.redis, options.prefix, options.count)
    if options.command == "work":
        work(queue, f"worker-{os.getpid()}", options.provider_seconds)
    elif options.command == "submit":
        print(queue.submit(options.destination, options.body))
    else:
        print(queue.status(options.id) or "unknown")
    return 0


if __name__ == "__main__":
    sys.exit(main())
