"""Signatures of Standard Webhooks 1.0.0: HMAC-SHA256 over `{id}.{timestamp}.{body}` with a `whsec_` secret."""

import base64
import secrets as random_bytes
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from standardwebhooks import Webhook

_PREFIX = "whsec_"


def new_secret() -> str:
    """A new secret of 32 random bytes."""
    return _PREFIX + base64.b64encode(random_bytes.token_bytes(32)).decode()


def check_secret(secret: str) -> str:
    """Return the secret unchanged. Raises ValueError, without the secret, if it is malformed."""
    with suppress(ValueError):
        size = len(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
        if secret.startswith(_PREFIX) and 24 <= size <= 64:
            return secret
    raise ValueError(f"must be {_PREFIX} and the base64 of 24 to 64 bytes; `posthaste callbacks secret` creates one")


class Signer:
    """Signs with every configured secret, so that receivers can verify with any of them during a rotation."""

    def __init__(self, secrets: Sequence[str]):
        self._webhooks = [Webhook(secret) for secret in secrets]

    def headers(self, id_: str, at: datetime, body: str) -> dict[str, str]:
        """The headers that sign `body`. `at`: the attempt's instant, in UTC. `id_` is the same in every attempt."""
        signatures = [webhook.sign(id_, at, body) for webhook in self._webhooks]
        return {"webhook-id": id_, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": " ".join(signatures)}
