"""Signatures as Standard Webhooks 1.0.0 has them: HMAC-SHA256 over `{id}.{timestamp}.{body}` with a `whsec_` secret."""

import base64
import binascii
import secrets as random_bytes
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook

PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64  # bytes


def new_secret() -> str:
    """A fresh secret: 32 random bytes."""
    return PREFIX + base64.b64encode(random_bytes.token_bytes(32)).decode()


def check_secret(secret: str) -> str:
    """The secret itself.

    Raises:
        ValueError: it is not `whsec_` and the base64 of 24 to 64 bytes; the message does not repeat it.
    """
    try:
        size = len(base64.b64decode(secret.removeprefix(PREFIX), validate=True)) if secret.startswith(PREFIX) else 0
    except binascii.Error:
        size = 0
    if not _SHORTEST <= size <= _LONGEST:
        raise ValueError(
            f"must be {PREFIX} and the base64 of {_SHORTEST} to {_LONGEST} bytes; `posthaste callbacks secret` makes one"
        )
    return secret


class Signer:
    """Signs with every secret there is, so that receivers may hold any of them while one replaces another."""

    def __init__(self, secrets: Sequence[str]):
        self._webhooks = [Webhook(secret) for secret in secrets]

    def headers(self, id_: str, at: datetime, body: str) -> dict[str, str]:
        """What says who sent this body and when; `at`: this attempt's instant, in UTC. `id_` is the same in every attempt."""
        signatures = [webhook.sign(id_, at, body) for webhook in self._webhooks]
        return {
            "webhook-id": id_,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
