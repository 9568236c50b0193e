"""The parts of accepting a message, each alone: publishing with confirms, and inserting by the batch."""

import asyncio
import json
import time
from contextlib import closing
from uuid import uuid4

import aio_pika
import psycopg2

from benchmarks.load import after

CONCURRENCY = 64  # publishes under way, and rows in an insert
QUEUE = "ceiling"

# The shape of an acceptance: one row in a table of jobs with two indexes, one in an outbox, one commit for the batch.
_TABLES = """
CREATE TABLE jobs (
    id uuid PRIMARY KEY, kind text NOT NULL, provider text NOT NULL, status text NOT NULL DEFAULT 'queued', destination text,
    body text, version int NOT NULL DEFAULT 1, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON jobs (created_at, id);
CREATE TABLE outbox (job_id uuid NOT NULL, version int NOT NULL, queue text NOT NULL, due_at timestamptz NOT NULL,
    PRIMARY KEY (job_id, version));
"""
_INSERT = """
WITH r AS (SELECT * FROM json_to_recordset(%s) AS r(id uuid, destination text, body text)), accepted AS (
    INSERT INTO jobs (id, kind, provider, destination, body) SELECT id, 'message', 'sink', destination, body FROM r
    ORDER BY id RETURNING id, created_at
) INSERT INTO outbox SELECT id, 1, 'message', created_at + interval '5 seconds' FROM accepted
"""


async def publishing(amqp: str, seconds: float) -> float:
    """Persistent messages a second into a quorum queue through aio-pika, each confirmed, 64 under way."""
    async with await aio_pika.connect(amqp) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        started, expired, published = time.monotonic(), after(seconds), 0

        async def publish() -> None:
            nonlocal published
            while not expired():
                message = aio_pika.Message(b'{"id":"%s"}' % uuid4().bytes.hex().encode(), delivery_mode=2)
                await channel.default_exchange.publish(message, QUEUE)
                published += 1

        await asyncio.gather(*(publish() for _ in range(CONCURRENCY)))
        return published / (time.monotonic() - started)


def inserting(database: str, seconds: float) -> float:
    """Rows a second into jobs and outbox, 64 in a transaction, one transaction after the other."""
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(_TABLES)
        connection.commit()
        started, expired, rows = time.monotonic(), after(seconds), 0
        while not expired():
            batch = [{"id": str(uuid4()), "destination": "+15550001", "body": f"Hello {n}"} for n in range(CONCURRENCY)]
            cursor.execute(_INSERT, (json.dumps(batch),))
            connection.commit()
            rows += len(batch)
        return rows / (time.monotonic() - started)
