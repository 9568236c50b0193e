"""A client's backlog counts its own due messages and reports that can be processed."""

from datetime import UTC, datetime, timedelta

from infra.postgres.job_reads import JobReads
from tests.support.ledger import Store

_JOB = """
INSERT INTO jobs (id, client_id, kind, provider, destination, body, status, version, due_at, parent_id, parent_version)
VALUES (gen_random_uuid(), '{client}', '{kind}', {provider}, '+1', 'hello', '{status}', 1, '{due}', {parent})
"""


def _add(
    store: Store,
    kind: str,
    status: str = "queued",
    client: str = "shop",
    provider: str = "sandbox",
    due: int = -1,
) -> None:
    instant = datetime.now(UTC) + timedelta(minutes=due)
    named = "NULL" if kind != "message" else f"'{provider}'"
    parent = "gen_random_uuid(), 3" if kind == "callback" else "NULL, NULL"
    store.rows(_JOB.format(client=client, kind=kind, provider=named, status=status, due=instant.isoformat(), parent=parent))


async def test_only_a_clients_own_due_messages_and_reports_count(store: Store) -> None:
    store.rows("INSERT INTO provider_pauses (provider) VALUES ('paused')")
    _add(store, "message")
    _add(store, "message", status="retrying")
    _add(store, "report")
    assert await JobReads(store.pool).backlog("shop", 100, 5) == 3
    _add(store, "callback")
    _add(store, "callback", status="retrying")
    _add(store, "message", client="other")
    _add(store, "message", provider="paused")
    _add(store, "message", due=60)
    for status in ("processing", "sent", "failed"):
        _add(store, "message", status=status)
    assert await JobReads(store.pool).backlog("shop", 100, 5) == 3
    assert await JobReads(store.pool).backlog("shop", 2, 5) == 2
