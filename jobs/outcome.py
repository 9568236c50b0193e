"""What a handler says became of its work: a verdict, a reason code that is safe to show, and the provider's words."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The five things that can have become of a claim."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    RETRYABLE = "retryable"
    UNKNOWN = "unknown"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt. `reason` is a stable code without provider text; `provider_code` an HTTP status."""

    verdict: Verdict
    reason: str | None = None
    provider_code: int | None = None
    provider_message_id: str | None = None


NOT_STARTED = Outcome(Verdict.RELEASED, "not_started")
CUT_OFF = Outcome(Verdict.UNKNOWN, "shutdown")
CUT_SHORT = Outcome(Verdict.RELEASED, "shutdown")  # of work without effects outside the ledger: as if never begun

_RETRYABLE_4XX = frozenset({408, 425, 429})


def from_http(code: int, provider_message_id: str | None = None) -> Outcome:
    """Judge a provider's HTTP status (RFC 9110): 2xx accepted; 408, 425, 429 and 5xx come again; the rest is final."""
    if 200 <= code < 300:
        return Outcome(Verdict.ACCEPTED, None, code, provider_message_id)
    if code in _RETRYABLE_4XX or code >= 500:
        return Outcome(Verdict.RETRYABLE, f"http_{code}", code)
    return Outcome(Verdict.REJECTED, f"http_{code}", code)
