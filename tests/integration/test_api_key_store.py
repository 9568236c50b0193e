"""API keys in Postgres: rotation only shortens a key's life; only one caller creates the first key."""

import asyncio
from typing import Any

from infra.keys import Scope, matches, new_key
from infra.postgres.api_keys import RESERVED, ApiKeyStore
from tests.support.ledger import Store

DAY = 86_400


async def _rotated(store: Store, lifetime: float | None, overlap: float) -> tuple[Any, Any]:
    """Rotate; return the remaining seconds of the old and the new key, None without expiry."""
    book, old, new = ApiKeyStore(store.pool), new_key(), new_key()
    await book.create_client("shop", 5)
    assert await book.create_key("shop", old, [Scope.REPORTS], lifetime, 5)
    assert await book.rotate(old.prefix, new, overlap, 5)
    remaining = {
        str(prefix): seconds
        for prefix, seconds in store.rows("SELECT prefix, CAST(extract(epoch FROM expires_at - now()) AS float8) FROM api_keys")
    }
    return remaining[old.prefix], remaining[new.prefix]


async def test_rotation_ends_a_lasting_key_after_the_overlap(store: Store) -> None:
    old, new = await _rotated(store, 30 * DAY, DAY)
    assert DAY - 60 < old <= DAY and 30 * DAY - 60 < new <= 30 * DAY
    old, new = await _rotated(store, None, DAY)
    assert DAY - 60 < old <= DAY and new is None


async def test_rotation_never_prolongs_a_key_that_expires_sooner(store: Store) -> None:
    old, new = await _rotated(store, 3600, DAY)
    assert 3600 - 60 < old <= 3600 and 3600 - 60 < new <= 3600


async def test_the_first_key_is_taken_by_one_of_many(store: Store) -> None:
    book, keys = ApiKeyStore(store.pool), [new_key() for _ in range(8)]
    assert await book.reserve_first("default", [Scope.ADMIN], 5)
    assert not await book.reserve_first("default", [Scope.ADMIN], 5)
    assert await book.any(5)
    assert sum(await asyncio.gather(*(book.take_first(key, 5) for key in keys))) == 1
    (record,) = [found for found in await book.find([key.prefix for key in keys], 5) if found is not None]
    assert (record.client_id, record.scopes, record.usable) == ("default", frozenset({Scope.ADMIN}), True)
    assert sum(matches(key.key, record.hash) for key in keys) == 1
    assert await book.find([RESERVED], 5) == [None]


async def test_no_key_is_reserved_where_there_is_one(store: Store) -> None:
    book, key = ApiKeyStore(store.pool), new_key()
    await book.create_client("shop", 5)
    await book.create_key("shop", key, [Scope.REPORTS], None, 5)
    assert not await book.reserve_first("default", [Scope.ADMIN], 5)
    assert not await book.take_first(new_key(), 5)
