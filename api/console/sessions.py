"""Sessions of the console: a signed cookie that names an API key and an end. No process stores a session.

The signature is an HMAC under the key's stored hash. A process that knows the key verifies it, and a revoked key ends it.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from api.callers import Caller
from infra.keys import Scope

SESSION_SECONDS = 12 * 3600
_COOKIE = re.compile(r"(ph_[A-Za-z0-9]{8})\.([0-9]{1,11})\.([0-9a-f]{64})")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Session:
    """A cookie's content. Only `is_signed` shows that a key vouches for it. `expires_at`: in seconds since the epoch."""

    prefix: str
    expires_at: int
    signature: str

    def is_signed(self, key_hash: str) -> bool:
        """Whether the key with this hash signed the session. The reserved first key has no hash, and no sessions."""
        expected = _sign(key_hash, "session", f"{self.prefix}.{self.expires_at}")
        return bool(key_hash) and hmac.compare_digest(self.signature, expected)


@dataclass(frozen=True, slots=True)
class Viewer:
    """The person at the browser: a caller of the API. `form_token`: the token of the viewer's forms.

    `expires_at`: the end of the session; None without one, while requests need no key.
    """

    caller: Caller
    form_token: str
    expires_at: int | None = None

    def may(self, scope: Scope | None) -> bool:
        return scope is None or self.caller.may(scope)

    def is_active(self, now: float) -> bool:
        """Whether the viewer may still receive a stream."""
        return self.caller.usable and (self.expires_at is None or now < self.expires_at)


def issue(prefix: str, key_hash: str, now: float) -> str:
    """The cookie of a new session of this key."""
    expires_at = int(now) + SESSION_SECONDS
    return f"{prefix}.{expires_at}.{_sign(key_hash, 'session', f'{prefix}.{expires_at}')}"


def parse(cookie: str, now: float) -> Session | None:
    """The content of a cookie; None if it is malformed or has expired."""
    match = _COOKIE.fullmatch(cookie)
    if match is None or int(match[2]) <= now:
        return None
    return Session(match[1], int(match[2]), match[3])


def token_of(session: Session, key_hash: str) -> str:
    """The token of the forms of this session. Another site cannot read it, so only the console's pages send it."""
    return _sign(key_hash, "form", f"{session.prefix}.{session.expires_at}")


def new_token() -> str:
    """A token for the forms of a browser without a session. A cookie repeats it."""
    return secrets.token_urlsafe(32)


def is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


def _sign(key_hash: str, purpose: str, text: str) -> str:
    return hmac.new(key_hash.encode(), f"posthaste console {purpose} {text}".encode(), hashlib.sha256).hexdigest()
