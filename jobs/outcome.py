"""What a handler says became of its work: a verdict, a reason code that is safe to show, and the provider's words."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The six things that can have become of a claim."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    RETRYABLE = "retryable"  # it failed, or may have: charged
    UNKNOWN = "unknown"  # the request was written and no answer came
    DEFERRED = "deferred"  # the provider asks for patience: not sent, and not charged
    RELEASED = "released"  # not begun


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt. `reason` is a stable code without provider text; `provider_code` an HTTP status.

    `surely_not_sent`: nobody can have got it, so even `at_most_once` may try again. `retry_after_seconds`: when the provider
    wants to be asked again, by anybody.
    """

    verdict: Verdict
    reason: str | None = None
    provider_code: int | None = None
    provider_message_id: str | None = None
    surely_not_sent: bool = False
    retry_after_seconds: float | None = None

    @property
    def no_answer(self) -> bool:
        """Whether the provider was not there: no connection, no answer in time, or none at all."""
        return self.reason in _NO_ANSWER


_NO_ANSWER = frozenset({"no_connection", "dns_timeout", "tls_failed", "connect_timeout", "timeout", "connection_lost"})

NOT_STARTED = Outcome(Verdict.RELEASED, "not_started")
CUT_OFF = Outcome(Verdict.UNKNOWN, "shutdown")
CUT_SHORT = Outcome(Verdict.RELEASED, "shutdown")  # of work without effects outside the ledger: as if never begun

_RETRYABLE_4XX = frozenset({408, 425})


def from_http(code: int, provider_message_id: str | None = None, retry_after_seconds: float | None = None) -> Outcome:
    """Judge a provider's HTTP status (RFC 9110).

    2xx is accepted. 429, and 503 that says when (`retry_after_seconds`), ask for patience. 408, 425 and other 5xx come
    again: the provider may have passed the message on before it failed. The rest, redirects included, is final.
    """
    if 200 <= code < 300:
        return Outcome(Verdict.ACCEPTED, None, code, provider_message_id)
    if code == 429 or (code == 503 and retry_after_seconds is not None):
        return Outcome(Verdict.DEFERRED, f"http_{code}", code, surely_not_sent=True, retry_after_seconds=retry_after_seconds)
    if code in _RETRYABLE_4XX or code >= 500:
        return Outcome(Verdict.RETRYABLE, f"http_{code}", code)
    return Outcome(Verdict.REJECTED, f"http_{code}", code)


def from_callback(code: int, retry_after_seconds: float | None = None) -> Outcome:
    """Judge the HTTP status of a callback's receiver (Standard Webhooks 1.0.0, "Delivery success and failure").

    2xx is success, 410 wants no more. 429, and 503 that says when, ask for patience. All else, redirects and other 4xx
    included, is a failure and comes again: a receiver that is broken today may be mended tomorrow.
    """
    if 200 <= code < 300:
        return Outcome(Verdict.ACCEPTED, None, code)
    if code == 410:
        return Outcome(Verdict.REJECTED, "http_410", code)
    if code == 429 or (code == 503 and retry_after_seconds is not None):
        return Outcome(Verdict.DEFERRED, f"http_{code}", code, surely_not_sent=True, retry_after_seconds=retry_after_seconds)
    return Outcome(Verdict.RETRYABLE, f"http_{code}", code)
