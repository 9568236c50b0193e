"""The exercise's base version on a Redis Stream, in one file: a job queue on Redis alone.

    python examples/redis_queue.py demo                    # two workers, one is killed, no message is lost
    python examples/redis_queue.py submit +15550001 Hello  # prints an id
    python examples/redis_queue.py work                    # one worker, until Ctrl-C
    python examples/redis_queue.py status ID

A stream fits better than a list or a sorted set, because a consumer group tracks each entry's worker. `XREADGROUP` delivers
an entry to one worker and keeps it pending until `XACK`. `XAUTOCLAIM` moves a dead worker's entries to a live one. A list needs
`LMOVE` into one list a worker, and a process that watches those lists. A sorted set orders by time and needs a lock to claim.

Posthaste survives the loss of Redis, delays retries and records each attempt. This queue does none of that. A slow worker's
entry may be processed twice, so the work must be idempotent.
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
IDLE_MS = 2000  # without an acknowledgement for this time, a worker counts as dead
DELIVERIES = 5  # at most; then the entry moves to the dead stream
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
            if "BUSYGROUP" not in str(error):  # the group exists already
                raise

    def submit(self, destination: str, body: str) -> str:
        """Queue one message and return its id. One transaction writes status and entry."""
        id_ = str(uuid.uuid4())
        with self._redis.pipeline(transaction=True) as transaction:
            transaction.set(self._status_key(id_), "queued", ex=STATUS_SECONDS)
            transaction.xadd(self._work, {"id": id_, "destination": destination, "body": body})
            transaction.execute()
        return id_

    def status(self, id_: str) -> str | None:
        return cast("str | None", self._redis.get(self._status_key(id_)))

    def claim(self, worker: str, wait_ms: int = 500) -> Entry | None:
        """Claim an entry: a dead worker's first, else a new one. None after `wait_ms`."""
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
        """Number of deliveries of the entry, this one included."""
        pending = cast("list[dict[str, int]]", self._redis.xpending_range(self._work, GROUP, entry[0], entry[0], 1))
        return pending[0]["times_delivered"] if pending else 1

    def mark(self, entry: Entry, status: str) -> None:
        self._redis.set(self._status_key(entry[1]["id"]), status, ex=STATUS_SECONDS)

    def finish(self, entry: Entry, status: str, *, dead: bool = False) -> None:
        """Record the final status and delete the entry, in one transaction. A dead entry moves to the dead stream."""
        with self._redis.pipeline(transaction=True) as transaction:
            transaction.set(self._status_key(entry[1]["id"]), status, ex=STATUS_SECONDS)
            if dead:
                transaction.xadd(self.dead, dict(entry[1].items()))
            transaction.xack(self._work, GROUP, entry[0])
            transaction.xdel(self._work, entry[0])
            transaction.execute()

    def delete(self) -> None:
        """Delete both streams; statuses expire."""
        self._redis.delete(self._work, self.dead)

    def _status_key(self, id_: str) -> str:
        return f"{self._prefix}:status:{id_}"


def send(destination: str, body: str, seconds: float) -> bool:
    """Stand in for the exercise's slow provider. True: accepted."""
    time.sleep(seconds)
    return True


def work(queue: Queue, name: str, provider_seconds: float) -> None:
    """Claim, send and record until SIGINT or SIGTERM. The claimed entry is finished first."""
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopping.append(received))
    while not stopping:
        entry = queue.claim(name)
        if entry is None:
            continue
        if queue.deliveries(entry) > DELIVERIES:
            queue.finish(entry, "failed", dead=True)
            continue
        queue.mark(entry, "processing")
        if send(entry[1]["destination"], entry[1]["body"], provider_seconds):
            queue.finish(entry, "sent")
        else:
            queue.mark(entry, "retrying")  # not acknowledged: XAUTOCLAIM delivers it again after IDLE_MS


def demo(queue: Queue, url: str, prefix: str, count: int) -> int:
    """Run two workers and kill one. Returns 0 if every message is sent."""
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
    parser.add_argument("--prefix", default="example", help="prefix of every key")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo").add_argument("--count", type=int, default=100)
    worker = commands.add_parser("work")
    worker.add_argument("--provider-seconds", type=float, default=0.05, help="seconds for each message")
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
