"""Idempotency keys expire after their time, and outlive their jobs until then."""

from dataclasses import replace

from infra.postgres.transitions.accept import Accepted, KeyReused
from jobs.model import IdempotencyKey, NewJob
from tests.support.factories import message
from tests.support.ledger import Store

DAY = 86_400.0


def _named(key: str, tags: tuple[str, ...] = ()) -> NewJob:
    return replace(message(), key=IdempotencyKey("/messages", key, "the same"), tags=tags)


async def _accept(store: Store, new: NewJob) -> Accepted:
    (accepted,) = await store.ledger.accept([new], 5)
    assert not isinstance(accepted, KeyReused)
    return accepted


async def test_only_keys_past_their_time_are_forgotten_the_oldest_first(store: Store) -> None:
    for key, hours in (("old", 25), ("older", 26), ("young", 23)):
        await _accept(store, _named(key))
        store.rows(f"UPDATE idempotency_keys SET created_at = now() - interval '{hours} h' WHERE key = '{key}'")
    assert await store.ledger.forget_keys(DAY, 1, 5) == 1
    assert store.rows("SELECT key FROM idempotency_keys ORDER BY key") == [("old",), ("young",)]
    assert [await store.ledger.forget_keys(DAY, 10, 5) for _ in range(2)] == [1, 0]
    assert store.rows("SELECT key FROM idempotency_keys") == [("young",)]


async def test_a_key_answers_with_the_instant_of_its_job_and_without_the_job_with_its_own(store: Store) -> None:
    new, other = _named("k"), _named("other")
    first = await _accept(store, new)
    await _accept(store, other)
    store.rows("UPDATE idempotency_keys SET created_at = created_at - interval '1 s'")
    again = await _accept(store, _named("k"))
    assert (again.id, again.created_at, again.replayed) == (new.id, first.created_at, True)
    store.rows(f"DELETE FROM jobs WHERE id = '{new.id}'")
    again = await _accept(store, _named("k"))
    assert (again.id, again.created_at < first.created_at, again.replayed) == (new.id, True, True)


async def test_a_request_repeated_without_a_key_gets_its_own_job_among_others(store: Store) -> None:
    others, new = [message() for _ in range(2)], message()
    answers = await store.ledger.accept([*others, new], 5)
    assert await store.ledger.accept([new], 5) == [answers[2]]
    assert store.rows("SELECT count(*) FROM jobs") == [(3,)]


async def test_a_tag_that_is_named_twice_is_kept_once(store: Store) -> None:
    await _accept(store, _named("k", tags=("a", "a", "b")))
    assert store.rows("SELECT tag FROM message_tags ORDER BY tag") == [("a",), ("b",)]
