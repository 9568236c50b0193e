"""The settings of one provider, and the types that other settings share."""

import base64
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, model_validator

from service.secrets import Secret

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

# Posthaste sets these itself, or the connection's framing depends on them.
RESERVED_HEADERS = {
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host", "idempotency-key",
    "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip


def _not_reserved(name: str) -> str:
    if name.lower() in RESERVED_HEADERS:
        raise ValueError("is reserved: Posthaste sets this header")
    return name


HeaderName = Annotated[str, form(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "a header's name"), AfterValidator(_not_reserved)]
UserName = Annotated[str, form(r"[^:\x00-\x1f\x7f]+", "a user name without colons and line breaks")]


class RetrySettings(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """When failed attempts (at a provider, or at a report) are repeated. `jobs.retry.RetryPolicy` has the same fields."""

    attempts: Count = 20
    """The number of charged attempts after which a job fails."""
    base_seconds: float = Field(1.0, gt=0, le=86_400)
    """The longest first delay, in seconds. Each further one may be twice as long."""
    cap_seconds: float = Field(3600.0, gt=0, le=86_400)
    """The longest delay, in seconds, after a failed attempt or a deferral. A longer `Retry-After` takes precedence."""
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


class BasicAuth(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """HTTP basic authentication (RFC 7617)."""

    username: UserName
    """The user name."""
    password: Secret
    """The password: a secret."""


class AuthSettings(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """The `Authorization` of each request."""

    bearer: Secret | None = None
    """A token, sent as `Authorization: Bearer …` (RFC 6750): a secret."""
    basic: BasicAuth | None = None
    """`{"username": …, "password": …}`, sent as `Authorization: Basic …` (RFC 7617). The password is a secret."""

    @model_validator(mode="after")
    def _one(self) -> "AuthSettings":
        if (self.bearer is None) == (self.basic is None):
            raise ValueError("must have either `bearer` or `basic`")
        return self

    def authorization(self) -> str:
        """The value of the header. Raises ValueError by the secret's name if a secret cannot be read."""
        if self.basic is not None:
            password = _read("auth.basic.password", self.basic.password)
            return f"Basic {base64.b64encode(f'{self.basic.username}:{password}'.encode()).decode()}"
        assert self.bearer is not None  # checked above
        token = _read("auth.bearer", self.bearer)
        if " " in token:
            raise ValueError("auth.bearer: must be the token alone, without `Bearer` and spaces")
        return f"Bearer {token}"


def _read(name: str, secret: Secret) -> str:
    try:
        return secret.read()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


class ProviderSettings(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """One provider: `POST url {destination, body}`; `concurrency` slots in each consumer process."""

    kind: Literal["http"] = "http"
    """The protocol. `http` posts `{destination, body}` to the URL."""
    url: HttpUrl
    """The URL to which each message is posted."""
    headers: dict[HeaderName, Secret] = Field({}, max_length=50)
    """Further headers of each request. Each value is a secret."""
    auth: AuthSettings | None = None
    """The credentials of each request."""
    message_id_field: str = Field("id", min_length=1, max_length=200)
    """The field of the provider's JSON answer that becomes the message's `provider_message_id`."""
    timeout_seconds: Seconds = 10.0
    """The longest time, in seconds, that one call may take."""
    concurrency: Count = 64
    """The number of simultaneous calls in each worker process."""
    retry: RetrySettings = RetrySettings()
    """When failed attempts are retried."""
    breaker: BreakerSettings = BreakerSettings()
    """When the breaker opens."""

    @model_validator(mode="after")
    def _each_header_once(self) -> "ProviderSettings":
        names = [name.lower() for name in self.headers]
        if repeated := next((name for name in self.headers if names.count(name.lower()) > 1), None):
            raise ValueError(f"headers.{repeated}: is set twice; the case of letters does not distinguish headers")
        credentials = ["auth"] if self.auth else []
        credentials += ["headers.Authorization"] if "authorization" in names else []
        credentials += ["the user in url"] if "@" in urlsplit(self.url).netloc else []
        if len(credentials) > 1:
            raise ValueError(f"{credentials[0]}: {credentials[1]} sets the credentials, too; keep one")
        return self

    def request_headers(self) -> dict[str, str]:
        """The headers of each request. Reads the secrets; raises ValueError by the secret's name if one cannot be read."""
        headers = {name: _read(f"headers.{name}", secret) for name, secret in self.headers.items()}
        return headers | ({"Authorization": self.auth.authorization()} if self.auth else {})
