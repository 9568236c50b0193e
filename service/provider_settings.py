"""The settings of one provider, and the types that other settings share."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

Count = Annotated[int, Field(ge=1, le=1000)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


def form(pattern: str, name: str) -> AfterValidator:
    """The check that a whole text matches `pattern`; the error calls it `name`."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.DOTALL):
            raise ValueError(f"must be {name}")
        return value

    return AfterValidator(check)


HttpUrl = Annotated[str, form(r"https?://[^\s/]+(/\S*)?", "an http:// or https:// URL")]
ProviderName = Annotated[str, form("[a-z0-9][a-z0-9-]{0,31}", "a provider's name of the form [a-z0-9][a-z0-9-]{0,31}")]


class RetrySettings(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """When failed attempts (at a provider, or at a report) are repeated. `jobs.retry.RetryPolicy` has the same fields."""

    attempts: Count = 8
    """The number of charged attempts after which a job fails."""
    base_seconds: float = Field(1.0, gt=0, le=86_400)
    """The longest first delay, in seconds. Each further one may be twice as long."""
    cap_seconds: float = Field(300.0, gt=0, le=86_400)
    """The longest delay, in seconds."""
    deadline_seconds: float = Field(86_400.0, gt=0, le=31_536_000)
    """The age, in seconds since acceptance or requeue, after which a job is not retried."""
    deferrals: Count = 50
    """The number of uncharged deferrals of a revision. Each further one is charged."""


class BreakerSettings(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """When a provider that does not answer is left alone. `jobs.breaker.BreakerPolicy` has the same fields."""

    failures: Count = 5
    """The number of consecutive calls without an answer that open the breaker."""
    open_seconds: Seconds = 5.0
    """The seconds for which the breaker first stays open. Each failed probe doubles them."""
    cap_seconds: Seconds = 60.0
    """The longest time, in seconds, for which the breaker stays open."""


class ProviderSettings(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """One provider: `POST url {destination, body}`; `concurrency` slots in each consumer process."""

    kind: Literal["http"] = "http"
    """The protocol. `http` posts `{destination, body}` to the URL."""
    url: HttpUrl
    """The URL to which each message is posted."""
    timeout_seconds: Seconds = 10.0
    """The longest time, in seconds, that one call may take."""
    concurrency: Count = 64
    """The number of simultaneous calls in each worker process."""
    retry: RetrySettings = RetrySettings()
    """When failed attempts are retried."""
    breaker: BreakerSettings = BreakerSettings()
    """When the breaker opens."""
