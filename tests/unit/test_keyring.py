"""What a process knows of keys: looked up once, watched while in use, and by whom it stands while nobody can tell."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from starlette.requests import Request

from api import callers
from api.callers import Keyring
from api.problems import Problem
from infra.batching import Batcher
from infra.keys import KeyRecord, NewKey, Scope, new_key
from infra.postgres.errors import Unavailable


@dataclass
class Book:
    """The keys as a dictionary, which may be away."""

    keys: dict[str, KeyRecord] = field(default_factory=dict)
    away: bool = False
    looks: int = 0

    async def find(self, prefixes: Sequence[str], timeout: float) -> list[KeyRecord | None]:
        self.looks += 1
        if self.away:
            raise Unavailable("away")
        return [self.keys.get(prefix) for prefix in prefixes]

    async def any(self, timeout: float) -> bool:
        if self.away:
            raise Unavailable("away")
        return bool(self.keys)

    def add(self) -> NewKey:
        new = new_key()
        self.keys[new.prefix] = KeyRecord(new.prefix, "shop", new.hash, frozenset({Scope.REPORTS}), usable=True)
        return new

    def revoke(self, key: NewKey) -> None:
        self.keys[key.prefix] = replace(self.keys[key.prefix], usable=False)


def _request(key: str) -> Request:
    return Request({"type": "http", "headers": [(b"authorization", f"Bearer {key}".encode())]})


def _keyring(book: Book, told: list[str] | None = None, *, may_be_open: bool = True) -> Keyring:
    find = Batcher(book.find, key=lambda prefix: prefix, repeat=(Unavailable,))
    return Keyring(
        find, book.any, lambda: (told or []).append("revoked"), off=False, may_be_open=may_be_open, passing=(Unavailable,)
    )


async def _refused(keyring: Keyring, key: str) -> int:
    with pytest.raises(Problem) as problem:
        await keyring.caller(_request(key))
    return problem.value.status


async def test_a_key_is_looked_up_once_and_its_revocation_heeded_at_the_next_look() -> None:
    book, told = Book(), ["before"]
    key, keyring = book.add(), _keyring(book, told)
    assert await _refused(keyring, key.key) == 503  # nobody has asked Postgres yet
    await keyring.look()
    caller = await keyring.caller(_request(key.key))
    looks = book.looks
    assert await keyring.caller(_request(key.key)) is caller and book.looks == looks
    assert await _refused(keyring, key.key[:-1] + ("a" if key.key[-1] != "a" else "b")) == 401
    book.revoke(key)
    await keyring.look()
    assert await _refused(keyring, key.key) == 401
    assert not caller.usable and told == ["before", "revoked"]


async def test_what_was_known_last_holds_while_nobody_can_tell() -> None:
    book = Book()
    key, other, keyring = book.add(), book.add(), _keyring(book)
    await keyring.look()
    await keyring.caller(_request(key.key))
    book.away = True
    await keyring.look()
    assert (await keyring.caller(_request(key.key))).client_id == "shop"
    assert await _refused(keyring, other.key) == 503
    book.away = False
    assert (await keyring.caller(_request(other.key))).client_id == "shop"


async def test_a_key_is_watched_as_long_as_something_streams_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "IDLE_SECONDS", -1.0)  # idle at once
    book = Book()
    idle, streaming, keyring = book.add(), book.add(), _keyring(book)
    await keyring.look()
    await keyring.caller(_request(idle.key))
    caller = await keyring.caller(_request(streaming.key))
    caller.waiting = 1
    await keyring.look()
    assert not keyring.knows(_request(idle.key)) and keyring.knows(_request(streaming.key))
    book.revoke(streaming)
    await keyring.look()
    assert not caller.usable


async def test_before_the_first_key_only_an_open_api_lets_anybody_in() -> None:
    """Between the first look at Postgres and the end of a process that must not be open, nobody is let in either."""
    for may_be_open in (True, False):
        book = Book()
        keyring = _keyring(book, may_be_open=may_be_open)
        await keyring.look()
        if may_be_open:
            assert (await keyring.caller(_request(""))).client_id == "default"
        else:
            assert await _refused(keyring, "") == 503
        key = book.add()
        await keyring.look()
        assert await _refused(keyring, "") == 401
        assert (await keyring.caller(_request(key.key))).client_id == "shop"
