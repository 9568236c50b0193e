"""Lists over ten million messages: each filter's plan and time for one page."""

import os
import re
import time
from typing import Any

import sqlalchemy as sa

from dev.databases import create_database, drop_database
from infra.postgres import migration
from infra.postgres.job_reads import message_page
from infra.postgres.pool import DatabasePool
from service.settings import Settings

MESSAGES = int(os.environ.get("MESSAGES", "10000000"))
STEP = 500_000
CALL_SECONDS = 3600.0

_FILL = """
INSERT INTO jobs (id, client_id, kind, provider, status, destination, body, reference, tags, finished_at)
SELECT CAST(lpad(to_hex(n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0') AS uuid),
    CASE WHEN n % 100 = 0 THEN 'small' ELSE 'large' END, 'message', 'sandbox',
    CASE WHEN n % 10000 < 2 THEN 'failed' ELSE 'sent' END, '+1555' || n % 100000, 'Hello', 'order ' || n % 1000000, '{}', now()
FROM generate_series(:first, :last) n
"""
_TAGS = """
INSERT INTO message_tags
SELECT client_id, 'campaign ' || substr(destination, 6, 2), id FROM jobs
WHERE id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid)
"""
_SIZE = "SELECT pg_size_pretty(pg_database_size(current_database()))"
PAGES: dict[str, tuple[str, dict[str, str]]] = {
    "a small client's, all": ("small", {}),
    "a large client's, all": ("large", {}),
    "failed": ("large", {"status": "failed"}),
    "to one destination": ("large", {"destination": "+1555777"}),
    "of one reference": ("large", {"reference": "order 777"}),
    "of one tag": ("large", {"tag": "campaign 77"}),
    "of one tag, and failed": ("large", {"tag": "campaign 77", "status": "failed"}),
}


async def ten_million(settings: Settings) -> None:
    """Fill a temporary database and explain one page of each filter. Takes minutes and gigabytes."""
    database = create_database(settings.owner_url, "posthaste_benchmark")
    try:
        migration.migrate(database, "posthaste-benchmark")
        pool = DatabasePool(database, name="benchmark", threads=1)
        started = time.monotonic()
        for first in range(1, MESSAGES + 1, STEP):
            await pool.call(fill(first, min(first + STEP - 1, MESSAGES)), CALL_SECONDS)
        await pool.call(analyze, CALL_SECONDS)
        size = await pool.call(lambda c: c.exec_driver_sql(_SIZE).scalar(), 60)
        print(f"{MESSAGES:,} messages in {time.monotonic() - started:.0f} s, {size}")
        for name, (client_id, filter_) in PAGES.items():
            for _ in range(2):  # the second run is warm
                plan = await pool.call(_explain(client_id, filter_), CALL_SECONDS)
            index = ", ".join(dict.fromkeys(re.findall(r"using (\w+)", plan)))
            buffers = re.search(r"Buffers: shared ([^\n]*)", plan)
            took = re.search(r"Execution Time: ([0-9.]+) ms", plan)
            sort = ", SORTED" if "Sort" in plan else ""
            print(f"  {name}: {index}; {buffers and buffers[1]}; {took and took[1]} ms{sort}")
        pool.close()
    finally:
        drop_database(settings.owner_url, "posthaste_benchmark")


def fill(first: int, last: int) -> Any:
    def work(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0").close()
        connection.execute(sa.text(_FILL), {"first": first, "last": last}).close()
        ids = {name: f"{n:012x}70008000{n:012x}" for name, n in (("first", first), ("last", last))}
        connection.execute(sa.text(_TAGS), ids).close()

    return work


def analyze(connection: sa.Connection) -> None:
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0").close()
    connection.exec_driver_sql("ANALYZE jobs, message_tags").close()


def _explain(client_id: str, filters: dict[str, str]) -> Any:
    parameters = {**filters, "client_id": client_id, "before": "ffffffff-ffff-ffff-ffff-ffffffffffff", "limit": 51}
    statement = sa.text("EXPLAIN (ANALYZE, BUFFERS) " + message_page(filters))
    return lambda connection: "\n".join(str(line) for (line,) in connection.execute(statement, parameters))
