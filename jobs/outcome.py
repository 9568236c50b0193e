"""Outcomes of attempts, with reason codes that are safe to show."""

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    RETRYABLE = "retryable"  # may succeed later: charged
    UNKNOWN = "unknown"  # the request was written, no answer arrived
    DEFERRED = "deferred"  # not sent, and not charged: the provider requested a delay, or cannot be reached
    RELEASED = "released"  # not started


@dataclass(frozen=True, slots=True)
class Outcome:
    verdict: Verdict
    reason: str | None = None  # a stable code without provider text
    provider_code: int | None = None  # an HTTP status
    provider_message_id: str | None = None
    surely_not_sent: bool = False  # the provider cannot have received the message, so even `at_most_once` retries it
    retry_after_seconds: float | None = None  # the provider's Retry-After
    answered: bool = True  # False without a connection, or without an answer in time: the breaker counts such calls
    answer: str | None = None  # an excerpt of the provider's text, for operators: it may repeat the message


NOT_STARTED = Outcome(Verdict.RELEASED, "not_started")
UNKNOWN_AT_SHUTDOWN = Outcome(Verdict.UNKNOWN, "shutdown")
RELEASED_AT_SHUTDOWN = Outcome(Verdict.RELEASED, "shutdown")  # for work without effects outside the ledger

_REGISTERED = frozenset(HTTPStatus)


def from_http(code: int, provider_message_id: str | None = None, retry_after_seconds: float | None = None) -> Outcome:
    """Judge a provider's HTTP status (RFC 9110).

    2xx accepts. 429, and 503 with Retry-After, defer. 408, 425 and other 5xx are retryable: the provider may have passed the
    message on before it failed. All other codes, redirects included, reject.
    """
    failure = Verdict.RETRYABLE if code in (408, 425) or code >= 500 else Verdict.REJECTED
    return _judge(code, failure, retry_after_seconds, provider_message_id)


def from_callback(code: int, retry_after_seconds: float | None = None) -> Outcome:
    """Judge the HTTP status of a callback's receiver (Standard Webhooks 1.0.0, "Delivery success and failure").

    2xx accepts, 410 rejects. 429, and 503 with Retry-After, defer. All other codes, redirects and other 4xx included, are
    retryable: a broken receiver may be repaired.
    """
    return _judge(code, Verdict.REJECTED if code == 410 else Verdict.RETRYABLE, retry_after_seconds)


def _judge(code: int, failure: Verdict, retry_after_seconds: float | None, provider_message_id: str | None = None) -> Outcome:
    if 200 <= code < 300:
        return Outcome(Verdict.ACCEPTED, None, code, provider_message_id)
    if code == 429 or (code == 503 and retry_after_seconds is not None):
        return Outcome(Verdict.DEFERRED, _reason(code), code, surely_not_sent=True, retry_after_seconds=retry_after_seconds)
    return Outcome(failure, _reason(code), code)


def _reason(code: int) -> str:
    """The status as a reason; its class if it is not registered, as dead letters and metrics are grouped by reason."""
    return f"http_{code}" if code in _REGISTERED else f"http_{code // 100}xx"
