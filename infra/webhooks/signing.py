"""Signatures of Standard Webhooks 1.0.0: HMAC-SHA256 over `{id}.{timestamp}.{body}` with a `whsec_` secret."""

import base64
import binascii
import secrets as random_bytes
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook

PREFIX = "whsec_"
_MIN_BYTES, _MAX_BYTES = 24, 64


def new_secret() -> str:
    """A new secret of 32 random bytes."""
    return PREFIX + base64.b64encode(random_bytes.token_bytes(32)).decode()


def check_secret(secret: str) -> str:
    """Return the secret unchanged.

    Raises:
        ValueError: it is not `whsec_` and the base64 of 24 to 64 bytes. The message does not contain it.
    """
    try:
        size = len(base64.b64decode(secret.removeprefix(PREFIX), validate=True)) if secret.startswith(PREFIX) else 0
    except binascii.Error:
        size = 0
    if not _MIN_BYTES <= size <= _MAX_BYTES:
        raise ValueError(
            f"must be {PREFIX} and the base64 of {_MIN_BYTES} to {_MAX_BYTES} bytes; `posthaste callbacks secret` creates one"
        )
    return secret


class Signer:
    """Signs with every configured secret, so that receivers can verify with any of them during a rotation."""

    def __init__(self, secrets: Sequence[str]):
        self._webhooks = [Webhook(secret) for secret in secrets]

    def headers(self, id_: str, at: datetime, body: str) -> dict[str, str]:
        """The headers that sign `body`. `at`: the attempt's instant, in UTC. `id_` is the same in every attempt."""
        signatures = [webhook.sign(id_, at, body) for webhook in self._webhooks]
        return {
            "webhook-id": id_,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
