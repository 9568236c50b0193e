"""API keys: `ph_`, a public prefix of 8 characters, and a secret of 32. Only the hash of the key is stored."""

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass
from enum import StrEnum

_ALPHABET = string.ascii_letters + string.digits
_KEY = re.compile(r"(ph_[A-Za-z0-9]{8})_[A-Za-z0-9]{32}")
OPEN_CLIENT = "default"  # the client of jobs that are accepted without a key
CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Scope(StrEnum):
    MESSAGES_WRITE = "messages:write"
    MESSAGES_READ = "messages:read"
    REPORTS = "reports"
    DEAD_LETTERS = "dead-letters"
    ADMIN = "admin"  # all of these, and the dead letters of every client


DEFAULT_SCOPES = [scope for scope in Scope if scope is not Scope.ADMIN]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key, which is displayed once, with the prefix and the hash that are stored."""

    key: str
    prefix: str
    hash: str


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A stored key. `usable`: neither expired nor revoked, by Postgres' clock."""

    prefix: str
    client_id: str
    hash: str
    scopes: frozenset[Scope]
    usable: bool


def new_key() -> NewKey:
    """A new key. The 32 characters of its secret are 190 bits, so a plain SHA-256 is safe to store."""
    characters = "".join(secrets.choice(_ALPHABET) for _ in range(40))
    prefix = f"ph_{characters[:8]}"
    key = f"{prefix}_{characters[8:]}"
    return NewKey(key, prefix, _hash(key))


def prefix_of(key: str) -> str | None:
    """The prefix that identifies a key in the store; None: the text is not a key."""
    match = _KEY.fullmatch(key)
    return match and match[1]


def matches(key: str, hash_: str) -> bool:
    return hmac.compare_digest(_hash(key), hash_)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
