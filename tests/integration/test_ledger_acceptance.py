"""Acceptance on Postgres: one job an id, one job an idempotency key."""

from dataclasses import replace
from uuid import UUID

from infra.postgres.ledger import Ledger
from infra.postgres.transitions.accept import Accepted, KeyReused
from jobs.model import IdempotencyKey, NewJob
from tests.support.factories import claim_request, message
from tests.support.ledger import SECONDS, accept_one


async def test_accepting_the_same_id_again_changes_nothing(ledger: Ledger) -> None:
    new = message()
    await ledger.accept([new], SECONDS)
    request = claim_request(new.id)
    await ledger.claim([request], SECONDS)
    await ledger.accept([new], SECONDS)
    assert (await ledger.claim([claim_request(new.id, 1)], SECONDS)) == [None]


def _named(key: str, body: str = "hello", route: str = "/messages") -> NewJob:
    return replace(message(body=body), key=IdempotencyKey(route, key, body))


async def test_a_key_makes_one_job_also_within_one_batch(ledger: Ledger) -> None:
    first, twin, other = _named("k1"), _named("k1"), _named("k2")
    answers = await ledger.accept([first, twin, other], SECONDS)
    assert all(isinstance(answer, Accepted) for answer in answers)
    job_ids = {answer.id for answer in answers if isinstance(answer, Accepted)}
    assert len(job_ids) == 2 and other.id in job_ids
    (loser,) = {first.id, twin.id} - job_ids
    assert await ledger.claim([claim_request(loser)], SECONDS) == [None]
    again = await accept_one(ledger, _named("k2"))
    assert (again.id, again.replayed) == (other.id, True)


async def test_a_key_is_refused_for_another_request_and_free_on_another_route(ledger: Ledger) -> None:
    await accept_one(ledger, _named("k1"))
    neighbour = _named("k3")
    answers = await ledger.accept([_named("k1", body="other"), neighbour], SECONDS)
    assert isinstance(answers[0], KeyReused) and isinstance(answers[1], Accepted)
    assert not (await accept_one(ledger, _named("k1", body="other", route="/elsewhere"))).replayed


async def test_each_client_replays_its_own_job_under_an_equal_key(ledger: Ledger) -> None:
    clients = ("one", "other")
    first = [await accept_one(ledger, replace(_named("k1"), client_id=client)) for client in clients]
    assert first[0].id != first[1].id
    for order in (clients, clients[::-1]):
        again = await ledger.accept([replace(_named("k1"), client_id=client) for client in order], SECONDS)
        assert [_replayed(answer) for answer in again] == [first[clients.index(client)].id for client in order]
    other_clients = replace(_named("k1", body="something else"), client_id="third")
    assert (await accept_one(ledger, other_clients)).id == other_clients.id


async def test_an_equal_key_of_another_route_and_another_key_are_not_replayed(ledger: Ledger) -> None:
    first = [await accept_one(ledger, new) for new in (_named("k1"), _named("k2"), _named("k1", route="/elsewhere"))]
    assert len({each.id for each in first}) == 3
    again = await ledger.accept([_named("k1"), _named("k1", route="/elsewhere"), _named("k2")], SECONDS)
    assert [_replayed(answer) for answer in again] == [first[0].id, first[2].id, first[1].id]


def _replayed(answer: Accepted | KeyReused) -> UUID | None:
    return answer.id if isinstance(answer, Accepted) and answer.replayed else None


async def test_repeating_an_accept_under_its_key_finds_it_done(ledger: Ledger) -> None:
    new = _named("k1")
    first, again = await accept_one(ledger, new), await accept_one(ledger, new)
    assert (first.id, again.id, again.replayed) == (new.id, new.id, False)
