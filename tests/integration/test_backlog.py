"""A client's backlog is its own messages and reports that are due and could be worked on."""

from datetime import UTC, datetime, timedelta

from infra.postgres.queries import Queries
from tests.integration.conftest import Hurt

_JOB = """
INSERT INTO jobs (id, client_id, kind, provider, destination, body, status, version, due_at, parent_id, parent_version)
VALUES (gen_random_uuid(), '{client}', '{kind}', {provider}, '+1', 'hello', '{status}', 1, '{due}', {parent})
"""


def _add(hurt: Hurt, kind: str, status: str = "queued", client: str = "shop", provider: str = "sandbox", due: int = -1) -> None:
    instant = datetime.now(UTC) + timedelta(minutes=due)
    named = "NULL" if kind != "message" else f"'{provider}'"
    parent = "gen_random_uuid(), 3" if kind == "callback" else "NULL, NULL"
    hurt.rows(_JOB.format(client=client, kind=kind, provider=named, status=status, due=instant.isoformat(), parent=parent))


async def test_only_a_clients_own_due_messages_and_reports_count(hurt: Hurt) -> None:
    hurt.rows("INSERT INTO provider_pauses (provider) VALUES ('paused')")
    _add(hurt, "message")
    _add(hurt, "message", status="retrying")
    _add(hurt, "report")
    assert await Queries(hurt.pool).backlog("shop", 100, 5) == 3
    _add(hurt, "callback")
    _add(hurt, "callback", status="retrying")
    _add(hurt, "message", client="other")
    _add(hurt, "message", provider="paused")
    _add(hurt, "message", due=60)
    for status in ("processing", "sent", "failed"):
        _add(hurt, "message", status=status)
    assert await Queries(hurt.pool).backlog("shop", 100, 5) == 3
    assert await Queries(hurt.pool).backlog("shop", 2, 5) == 2
