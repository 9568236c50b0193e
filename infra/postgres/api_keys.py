"""Clients and their API keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from infra.keys import KeyRecord, NewKey, Scope
from infra.postgres.pool import DatabasePool

_USABLE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"

_FIND = sa.text(f"""
SELECT prefix, client_id, hash, scopes, {_USABLE} AS usable FROM api_keys WHERE prefix = ANY(:prefixes)
""")  # noqa: S608  a constant

_ANY = sa.text("SELECT EXISTS (SELECT FROM api_keys)")

# No key has this prefix or an empty hash, so no request can use a reserved key.
RESERVED = "ph_first"

_RESERVE = sa.text("""
WITH client AS (
    INSERT INTO clients (id) SELECT :client_id WHERE NOT EXISTS (SELECT FROM api_keys) ON CONFLICT DO NOTHING
)
INSERT INTO api_keys (prefix, client_id, hash, scopes)
SELECT :reserved, :client_id, '', :scopes WHERE NOT EXISTS (SELECT FROM api_keys)
ON CONFLICT DO NOTHING
""")

_TAKE = sa.text("""
UPDATE api_keys SET prefix = :prefix, hash = :hash, created_at = clock_timestamp()
WHERE prefix = :reserved AND revoked_at IS NULL
""")

_CREATE_CLIENT = sa.text("INSERT INTO clients (id) VALUES (:id) ON CONFLICT DO NOTHING")

_CLIENTS = sa.text(f"""
SELECT c.id, c.created_at, count(k.prefix) AS keys, count(k.prefix) FILTER (WHERE {_USABLE}) AS usable
FROM clients c LEFT JOIN api_keys k ON k.client_id = c.id GROUP BY c.id ORDER BY c.id
""")  # noqa: S608

_CREATE_KEY = sa.text("""
INSERT INTO api_keys (prefix, client_id, hash, scopes, expires_at)
SELECT :prefix, id, :hash, :scopes, clock_timestamp() + :seconds * interval '1 second' FROM clients WHERE id = :client_id
""")

_KEYS = sa.text(f"""
SELECT prefix, client_id, scopes, created_at, expires_at, revoked_at, {_USABLE} AS usable FROM api_keys
WHERE client_id = coalesce(:client_id, client_id) ORDER BY client_id, created_at
""")  # noqa: S608

# The new key has the client, the scopes and the lifetime of the old one.
_ROTATE = sa.text(f"""
WITH old AS (
    UPDATE api_keys SET expires_at = least(expires_at, clock_timestamp() + :overlap * interval '1 second')
    WHERE prefix = :old AND {_USABLE}
    RETURNING client_id, scopes, created_at
), lifetime AS (
    SELECT expires_at - created_at AS length FROM api_keys WHERE prefix = :old
)
INSERT INTO api_keys (prefix, client_id, hash, scopes, expires_at)
SELECT :prefix, client_id, :hash, scopes, clock_timestamp() + lifetime.length FROM old, lifetime
""")  # noqa: S608

_REVOKE = sa.text("""
UPDATE api_keys SET revoked_at = clock_timestamp()
WHERE revoked_at IS NULL AND (prefix = :name OR (:of_client AND client_id = :name))
""")


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client, with the numbers of its keys and of its usable keys."""

    id: str
    created_at: datetime
    keys: int
    usable: int


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as operators see it: without its secret."""

    prefix: str
    client_id: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    usable: bool


class ApiKeyStore:
    """Each method is one transaction; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def find(self, prefixes: Sequence[str], timeout: float) -> list[KeyRecord | None]:
        """The keys with these prefixes, in their order; None where there is none."""
        found = {row["prefix"]: _record(**row) for row in await self._pool.fetch(_FIND, timeout, prefixes=list(prefixes))}
        return [found.get(prefix) for prefix in prefixes]

    async def any(self, timeout: float) -> bool:
        """Whether any key exists, revoked ones included."""
        return bool(await self._pool.value(_ANY, timeout))

    async def reserve_first(self, client_id: str, scopes: Sequence[Scope], timeout: float) -> bool:
        """Reserve a key for a client, which is created if it is missing. False: a key exists.

        From then on every request needs a key. `take_first` makes the reserved key usable.
        """
        return await self._pool.execute(_RESERVE, timeout, client_id=client_id, scopes=list(scopes), reserved=RESERVED) == 1

    async def take_first(self, new: NewKey, timeout: float) -> bool:
        """Replace the reserved key. False: no key is reserved."""
        return await self._pool.execute(_TAKE, timeout, prefix=new.prefix, hash=new.hash, reserved=RESERVED) == 1

    async def create_client(self, id_: str, timeout: float) -> bool:
        """False: the client exists."""
        return await self._pool.execute(_CREATE_CLIENT, timeout, id=id_) == 1

    async def clients(self, timeout: float) -> list[ClientRow]:
        return [ClientRow(**row) for row in await self._pool.fetch(_CLIENTS, timeout)]

    async def create_key(
        self, client_id: str, new: NewKey, scopes: Sequence[Scope], seconds: float | None, timeout: float
    ) -> bool:
        """Create a key that expires after `seconds` (None: never). False: the client does not exist."""
        parameters = {"client_id": client_id, "scopes": list(scopes), "seconds": seconds}
        return await self._pool.execute(_CREATE_KEY, timeout, prefix=new.prefix, hash=new.hash, **parameters) == 1

    async def keys(self, client_id: str | None, timeout: float) -> list[KeyRow]:
        return [KeyRow(**row) for row in await self._pool.fetch(_KEYS, timeout, client_id=client_id)]

    async def rotate(self, old: str, new: NewKey, overlap_seconds: float, timeout: float) -> bool:
        """Create a successor of a usable key, which expires after the overlap at the latest. False: no such key."""
        parameters = {"old": old, "prefix": new.prefix, "hash": new.hash, "overlap": overlap_seconds}
        return await self._pool.execute(_ROTATE, timeout, **parameters) == 1

    async def revoke(self, name: str, timeout: float, *, of_client: bool = False) -> int:
        """Revoke the key with this prefix, or every key of this client; returns how many."""
        return await self._pool.execute(_REVOKE, timeout, name=name, of_client=of_client)


def _record(scopes: list[str], **columns: Any) -> KeyRecord:
    return KeyRecord(**columns, scopes=frozenset(Scope(scope) for scope in scopes if scope in set(Scope)))
