"""The plans of the hot statements, on a ledger with history: each uses an index.

`make plans` prints them.
"""

import json
from typing import Any

import sqlalchemy as sa

from infra.postgres import figures, job_reads, ledger, outbox, results, schedules, sweep, totals
from infra.postgres.pool import DatabasePool
from infra.postgres.transitions import apply, claim
from jobs.model import REPORTS, message_queue
from tests.support.factories import new_id

JOBS = 50_000

FILL = [
    # History, a backlog, and some work in progress.
    """INSERT INTO jobs (id, kind, provider, destination, body, status, version, lease_until)
       SELECT gen_random_uuid(), 'message', 'sandbox', '+1', 'hello',
           CASE WHEN n % 100 = 0 THEN 'processing' WHEN n % 10 = 0 THEN 'queued' ELSE 'sent' END, 1,
           CASE WHEN n % 100 = 0 THEN now() + n * interval '1 ms' END
       FROM generate_series(1, :jobs) n""",
    """INSERT INTO outbox (job_id, version, route, queue, due_at)
       SELECT id, version, 'work', 'messages.p' || abs(hashtext(CAST(id AS text))) % 4 || '.normal',
           now() + random() * interval '1 h'
       FROM jobs WHERE status = 'queued'""",
    "ANALYZE",
]


def _batch(size: int) -> str:
    row: dict[str, Any] = {"version": 1, "token": str(new_id()), "lease_seconds": 60, "cause": "accepted", "to": "sent"}
    return json.dumps([{"id": str(new_id()), **row} for _ in range(size)])


QUEUE = message_queue("sandbox")

SWEEP = {"before": "2026-01-01T00:00Z", "after": "2025-01-01T00:00Z", "limit": 1000}
RESULT = {"id": str(new_id()), "token": str(new_id())}
CLAIM = {"id": str(new_id()), "version": 2, "token": str(new_id())}

SWEEP_QUEUE, SWEEP_REPORTS = (sweep._of(sweep._SWEEP, queue) for queue in (QUEUE, REPORTS))
OBSERVE = sweep._of(sweep._OBSERVE, QUEUE)

STATEMENTS: dict[str, tuple[sa.TextClause, dict[str, Any], str]] = {
    "claim": (claim.CLAIM.statement, {"rows": _batch(50), "worker": 7}, "jobs_pkey"),
    "apply": (apply.APPLY.statement, {"rows": _batch(50), "grace": 5, "retain_body": True}, "jobs_pkey"),
    "reap": (ledger.EXPIRED_LEASES, {"limit": 200}, "jobs_lease"),
    "orphans": (ledger.ORPHANS, {"limit": 200}, "jobs_lease"),
    "outbox delete": (outbox._DELETE.statement, {"rows": _batch(50)}, "outbox_pkey"),
    "outbox take": (outbox._TAKE, {"queue": "messages.p1.normal", "limit": 500, "taken": 30}, "outbox_due"),
    "outbox queues": (outbox._QUEUES, {}, "outbox_due"),
    "sweep": (SWEEP_QUEUE, SWEEP, "jobs_waiting"),
    "sweep reports": (SWEEP_REPORTS, SWEEP, "jobs_waiting"),
    "observe": (OBSERVE, {"behind": 5}, "jobs_claimed"),
    "observe rows": (OBSERVE, {"behind": 5}, "outbox_due"),
    "renew": (ledger.RENEW, {**CLAIM, "lease": 60, "done": 1, "about": None}, "jobs_pkey"),
    "forget totals": (totals._FORGET, CLAIM, "report_totals_pkey"),
    "store totals": (totals._STORE, {**CLAIM, "users": [1], "words": [2]}, "jobs_pkey"),
    "result": (results._FIND, {"id": str(new_id())}, "report_results_pkey"),
    "page by user": (results._BY_USER, {**RESULT, "after": 5, "limit": 100}, "report_totals_pkey"),
    "page by position": (results._BY_POSITION, {**RESULT, "after": 5, "limit": 100}, "report_totals_by_position"),
    "summaries of reports": (job_reads._REPORTS, {"ids": [str(new_id()) for _ in range(50)]}, "report_results_pkey"),
    "list of reports": (
        job_reads._REPORT_PAGE,
        {"client_id": "default", "before": str(new_id()), "limit": 50},
        "jobs_reports",
    ),
    "refill dead": (
        sweep._REFILL_DEAD,
        {"kind": "message", "queue": "q", "after": str(new_id()), "limit": 1000},
        "jobs_dead",
    ),
    "statuses": (job_reads._STATUSES, {"ids": [str(new_id()) for _ in range(50)]}, "jobs_pkey"),
    "messages": (job_reads._MESSAGES, {"ids": [str(new_id()) for _ in range(50)]}, "jobs_pkey"),
    "due schedules": (schedules._FIND_DUE, {"keys_off": False, "limit": 100}, "report_schedules_due"),
    "keys of due schedules": (schedules._FIND_DUE, {"keys_off": False, "limit": 100}, "api_keys_by_client"),
    "start schedules": (
        schedules._START,
        {"rows": '[{"client_id": "default", "name": "nightly"}]', "callback_url": None},
        "report_schedules_pkey",
    ),
    "schedules of a client": (
        schedules._OF_CLIENT,
        {"keys_off": False, "client_id": "default", "limit": 100},
        "report_schedules_pkey",
    ),
    "figures messages": (figures.MESSAGES, {"limit": 10_000}, "jobs_waiting"),
    "figures others": (figures.OTHERS, {"limit": 10_000, "kinds": ["report", "callback"]}, "jobs_waiting_by_kind"),
    "figures dead letters": (
        figures.DEAD_LETTERS,
        {"kinds": ["message", "report", "callback"], "limit": 10_000, "groups": 500},
        "jobs_dead_by_reason",
    ),
    "figures processing": (figures.PROCESSING, {"limit": 10_000}, "jobs_lease"),
    "figures outbox": (figures.OUTBOX, {"limit": 10_000}, "outbox_due"),
    "reports": (job_reads._REPORTS, {"ids": [str(new_id()) for _ in range(50)]}, "jobs_pkey"),
}

# Their index has the required order: a backlog of a million rows is not sorted for 500 of them.
ORDERED = {"reap", "orphans", "sweep", "sweep reports", "list of reports", "due schedules", "outbox take", "outbox queues"} | {
    name for name in STATEMENTS if name.startswith("figures")
}

# Counts of up to 10,000 entries read the index alone, not the rows.
ALONE = {name for name in STATEMENTS if name.startswith("figures")}


def test_every_hot_statement_goes_by_its_index(database: str) -> None:
    pool = DatabasePool(database, name="plans", threads=1)
    with pool.engine.connect() as connection:
        for filling in FILL:
            connection.execute(sa.text(filling), {"jobs": JOBS} if ":jobs" in filling else {})
        for name, (statement, parameters, index) in STATEMENTS.items():
            bound = {**statement.compile().params, **parameters}
            rows = connection.execute(sa.text(f"EXPLAIN (COSTS OFF) {statement.text}"), bound)
            plan = "\n".join(row[0] for row in rows)
            print(f"\n== {name}\n{plan}")
            assert index in plan, plan
            assert "Seq Scan" not in plan and "Bitmap" not in plan and "Materialize" not in plan, plan
            assert name not in ORDERED or "Sort" not in plan, plan
            assert name not in ALONE or "Index Scan" not in plan, plan
    pool.close()
