"""API keys: `ph_`, eight characters that may be seen, and a secret of 32. Only the hash of the whole is kept."""

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass
from enum import StrEnum

_ALPHABET = string.ascii_letters + string.digits
_KEY = re.compile(r"(ph_[A-Za-z0-9]{8})_[A-Za-z0-9]{32}")
OPEN_CLIENT = "default"  # whose jobs those are that were accepted without a key


class Scope(StrEnum):
    """What a key may do."""

    MESSAGES_WRITE = "messages:write"
    MESSAGES_READ = "messages:read"
    REPORTS = "reports"
    DEAD_LETTERS = "dead-letters"
    ADMIN = "admin"  # all of these, and the dead letters of every client


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is shown once, and what is kept of it."""

    key: str
    prefix: str
    hash: str


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a key. `usable`: neither expired nor revoked, by Postgres' clock."""

    prefix: str
    client_id: str
    hash: str
    scopes: frozenset[Scope]
    usable: bool


def new_key() -> NewKey:
    """A fresh key: 32 random characters are 190 bits, so that a plain SHA-256 of it cannot be guessed at."""
    prefix = "ph_" + _random(8)
    key = f"{prefix}_{_random(32)}"
    return NewKey(key, prefix, _hash(key))


def prefix_of(key: str) -> str | None:
    """The part by which a key is found; None: this is no key."""
    found = _KEY.fullmatch(key)
    return found and found[1]


def matches(key: str, hash_: str) -> bool:
    return hmac.compare_digest(_hash(key), hash_)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
