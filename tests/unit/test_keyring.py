"""The keyring: keys are loaded once, refreshed while in use, and valid while Postgres is down."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import limits
import pytest
from limits import RateLimitItem
from starlette.requests import Request
from starlette.responses import Response

from api import callers
from api.callers import Access, Endpoint, Keyring, client_of
from api.problems import Problem
from infra.keys import KeyRecord, NewKey, Scope, new_key
from infra.postgres.errors import Unavailable
from infra.redis.rates import LimitExceeded
from tests.support.waiting import eventually


@dataclass
class Store:
    """The key store as a dictionary, which may be down."""

    keys: dict[str, KeyRecord] = field(default_factory=dict)
    away: bool = False
    reads: list[int] = field(default_factory=list)  # the number of prefixes of each

    async def find(self, prefixes: Sequence[str], timeout: float) -> list[KeyRecord | None]:
        self.reads.append(len(prefixes))
        await asyncio.sleep(0)  # a real one takes its time, too
        await self.any(timeout)
        return [self.keys.get(prefix) for prefix in prefixes]

    async def any(self, timeout: float) -> bool:
        if self.away:
            raise Unavailable("away")
        return bool(self.keys)


def _add(store: Store) -> NewKey:
    new = new_key()
    store.keys[new.prefix] = KeyRecord(new.prefix, "shop", new.hash, frozenset({Scope.REPORTS}), usable=True)
    return new


def _revoke(store: Store, key: NewKey) -> None:
    store.keys[key.prefix] = replace(store.keys[key.prefix], usable=False)


def _request(key: str) -> Request:
    headers = [(b"authorization", f"Bearer {key}".encode())]
    return Request({"type": "http", "headers": headers, "client": ("192.0.2.1", 1)})


def _keyring(store: Store, warnings: list[str] | None = None, *, may_be_open: bool = True) -> Keyring:
    return Keyring(store, lambda: (warnings or []).append("revoked"), off=False, may_be_open=may_be_open)


@dataclass
class Exhausted:
    """Limits that every address has exhausted and no key has."""

    counted: list[str] = field(default_factory=list)

    async def hit(self, limit: RateLimitItem, name: str) -> LimitExceeded | None:
        if name.startswith("ph_"):
            return None
        self.counted.append(name)
        return LimitExceeded(60)


async def _refused(keyring: Keyring, key: str) -> int:
    with pytest.raises(Problem) as problem:
        await keyring.caller(_request(key))
    return problem.value.status


async def test_a_key_is_looked_up_once_and_its_revocation_heeded_at_the_next_look() -> None:
    store, warnings = Store(), ["before"]
    key, keyring = _add(store), _keyring(store, warnings)
    assert await _refused(keyring, key.key) == 503  # Postgres has not been read yet
    await keyring.refresh()
    caller = await keyring.caller(_request(key.key))
    reads = len(store.reads)
    assert await keyring.caller(_request(key.key)) is caller and len(store.reads) == reads
    assert await _refused(keyring, key.key[:-1] + ("a" if key.key[-1] != "a" else "b")) == 401
    _revoke(store, key)
    await keyring.refresh()
    assert await _refused(keyring, key.key) == 401
    assert not caller.usable and warnings == ["before", "revoked"]


async def test_the_last_known_keys_hold_while_postgres_is_down() -> None:
    store = Store()
    key, other, keyring = _add(store), _add(store), _keyring(store)
    await keyring.refresh()
    await keyring.caller(_request(key.key))
    store.away = True
    await keyring.refresh()
    assert (await keyring.caller(_request(key.key))).client_id == "shop"
    assert await _refused(keyring, other.key) == 503
    store.away = False

    async def code() -> int:
        try:
            return 200 if (await keyring.caller(_request(other.key))).client_id == "shop" else 0
        except Problem as problem:
            return problem.status

    await eventually(code, lambda status: status == 200)


async def test_a_key_is_watched_as_long_as_something_streams_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "IDLE_SECONDS", -1.0)  # idle at once
    store = Store()
    idle, streaming, keyring = _add(store), _add(store), _keyring(store)
    await keyring.refresh()
    await keyring.caller(_request(idle.key))
    caller = await keyring.caller(_request(streaming.key))
    caller.waiting = 1
    await keyring.refresh()
    reads = len(store.reads)
    await keyring.caller(_request(streaming.key))
    assert len(store.reads) == reads
    await keyring.caller(_request(idle.key))
    assert len(store.reads) == reads + 1
    _revoke(store, streaming)
    await keyring.refresh()
    assert not caller.usable


async def test_before_the_first_key_only_an_open_api_lets_anybody_in() -> None:
    """A process that must not be open also refuses requests between its first read of Postgres and its end."""
    for may_be_open in (True, False):
        store = Store()
        keyring = _keyring(store, may_be_open=may_be_open)
        await keyring.refresh()
        if may_be_open:
            assert (await keyring.caller(_request(""))).client_id == "default"
        else:
            assert await _refused(keyring, "") == 503
        key = _add(store)
        await keyring.refresh()
        assert await _refused(keyring, "") == 401
        assert (await keyring.caller(_request(key.key))).client_id == "shop"


def _guarded(keyring: Keyring, rates: Exhausted) -> Endpoint:
    """An endpoint for reports, behind these limits."""

    async def handler(request: Request) -> Response:
        return Response(client_of(request))

    limit = limits.parse("60/minute")
    return Access(keyring, rates.hit, limit, limit).guard(handler, Scope.REPORTS)


async def _code(endpoint: Endpoint, key: str) -> int:
    try:
        response = await endpoint(_request(key))
    except Problem as problem:
        return problem.status
    return response.status_code


async def test_bad_keys_behind_an_address_lock_out_no_valid_key() -> None:
    store, rates = Store(), Exhausted()
    key, keyring = _add(store), _keyring(store)
    endpoint = _guarded(keyring, rates)
    await keyring.refresh()
    assert await _code(endpoint, new_key().key) == 429
    assert await _code(endpoint, key.key) == 200
    assert await _code(endpoint, key.key[:-1] + ("a" if key.key[-1] != "a" else "b")) == 429
    assert await _code(endpoint, "") == 429
    assert rates.counted == ["192.0.2.1"] * 3


async def test_a_flood_of_bad_keys_is_looked_up_by_few_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "LOOKUP_SECONDS", 20.0)
    store = Store()
    key, keyring = _add(store), _keyring(store)
    endpoint = _guarded(keyring, Exhausted())
    await keyring.refresh()
    bad = [new_key().key for _ in range(1500)]
    requests = [asyncio.create_task(_code(endpoint, each)) for each in [*bad, key.key]]
    assert set(await asyncio.gather(*requests[:-1])) == {429} and await requests[-1] == 200
    assert len(store.reads) <= 5 and max(store.reads) <= 500
    reads = len(store.reads)
    for each in bad[:10]:
        assert await _refused(keyring, each) == 401
    assert len(store.reads) == reads  # bad keys are remembered for a while


async def test_a_bounded_number_of_bad_keys_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "UNKNOWN_KEYS", 3)
    store = Store()
    _add(store)
    keyring = _keyring(store)
    await keyring.refresh()
    bad = [new_key().key for _ in range(4)]
    for each in bad:
        assert await _refused(keyring, each) == 401
    reads = len(store.reads)
    for each in bad[1:]:
        assert await _refused(keyring, each) == 401
    assert len(store.reads) == reads
    assert await _refused(keyring, bad[0]) == 401 and len(store.reads) == reads + 1
