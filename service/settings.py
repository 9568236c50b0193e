"""Settings: `POSTHASTE_…` variables, read once by each process, frozen, and refused at start by name."""

import json
import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import limits
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableValue

from infra.tls import check_tls
from infra.webhooks.guard import PORTS, Guard, Network, Refused
from infra.webhooks.signing import check_secret
from jobs.breaker import BreakerPolicy
from jobs.model import CALLBACKS, REPORTS, Kind, work_queues
from jobs.retry import RetryPolicy, schedule_policy

PREFIX = "POSTHASTE_"
# Later files win over earlier ones, the environment over all. `make services` writes the first, and `posthaste up --sandbox`
# the second while it runs, so that commands in another terminal know the same providers.
SANDBOX_FILE = ".local/sandbox.env"
ENV_FILES = (".local/services.env", SANDBOX_FILE, ".env")
# Standard Webhooks 1.0.0, "Deliverability and reliability": the delays after each failed attempt, the last after three days.
STANDARD_SCHEDULE = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
CALLBACK_WAIT_SECONDS = 1.0  # seconds that a callback may wait for its host's share of the slots
# A worker has a channel for each queue, two a provider; RabbitMQ allows 2,047 channels on a connection.
MOST_PROVIDERS = 1000
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class SettingsError(Exception):
    """The settings cannot be used; the message names each variable and what is wrong with it."""


class RetrySettings(BaseModel):
    """When failed attempts (at a provider, or at a report) are repeated; see `jobs.retry`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    attempts: int = Field(8, ge=1, le=1000)
    base_seconds: float = Field(1.0, gt=0, le=86_400)
    cap_seconds: float = Field(300.0, gt=0, le=86_400)
    deadline_seconds: float = Field(86_400.0, gt=0, le=31_536_000)
    deferrals: int = Field(50, ge=1, le=1000)

    def policy(self) -> RetryPolicy:
        return RetryPolicy(self.attempts, self.base_seconds, self.cap_seconds, self.deadline_seconds, deferrals=self.deferrals)


class BreakerSettings(BaseModel):
    """When a provider that does not answer is left alone; see `jobs.breaker`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    failures: int = Field(5, ge=1, le=1000)
    open_seconds: float = Field(5.0, gt=0, le=3600)
    cap_seconds: float = Field(60.0, gt=0, le=3600)

    def policy(self) -> BreakerPolicy:
        return BreakerPolicy(self.failures, self.open_seconds, self.cap_seconds)


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ValueError("must be an http:// or https:// URL")
    return value


def _rate(value: str) -> str:
    try:
        limits.parse(value)
    except ValueError as error:
        raise ValueError("must be of the form 100/second, 60/minute or 5/10seconds") from error
    return value


def _host_name(value: str) -> str:
    if value != "*" and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})", value):
        raise ValueError("must be a host name without scheme and port, or *")
    return value


def _secret(value: str) -> str:
    return check_secret(value)


class ProviderSettings(BaseModel):
    """One provider: `POST url {destination, body}`; `concurrency` slots in each consumer process."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["http"] = "http"
    url: Annotated[str, AfterValidator(_http_url)]
    timeout_seconds: float = Field(10.0, gt=0, le=3600)
    concurrency: int = Field(64, ge=1, le=1000)
    retry: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()


def _scheme(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        if not value.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return AfterValidator(check)


class Settings(BaseSettings):
    """Everything that can be set. `.env.example` lists each with a sentence."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_file=ENV_FILES)

    database_url: Annotated[str, _scheme("postgresql", "postgres"), AfterValidator(check_tls)]
    migration_database_url: Annotated[str, _scheme("postgresql", "postgres"), AfterValidator(check_tls)] | None = None
    amqp_url: Annotated[str, _scheme("amqp", "amqps"), AfterValidator(check_tls)]
    redis_url: Annotated[str, _scheme("redis", "rediss", "unix"), AfterValidator(check_tls)]
    management_url: Annotated[str, AfterValidator(_http_url)] | None = None
    namespace: str = Field("posthaste", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    host: str = "127.0.0.1"
    port: int = Field(9006, ge=1, le=65_535)
    allowed_hosts: list[Annotated[str, AfterValidator(_host_name)]] = []
    auth: Literal["auto", "off"] = "auto"
    api_key: str | None = Field(None, repr=False)
    rate_per_key: Annotated[str, AfterValidator(_rate)] = "1000/second"
    rate_per_address: Annotated[str, AfterValidator(_rate)] = "60/minute"
    trusted_proxies: list[Network] = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    backlog_high: int = Field(200_000, ge=1)
    backlog_low: int = Field(150_000, ge=0)
    retain_body: bool = True
    retention_days: dict[Kind, Annotated[float, Field(gt=0, le=36_500)]] = dict.fromkeys(Kind, 30.0)
    waiting_per_key: int = Field(1000, ge=1, le=100_000)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    providers: dict[str, ProviderSettings] = Field({}, max_length=MOST_PROVIDERS)
    providers_file: Path | None = None
    default_provider: str | None = None
    request_timeout_seconds: float = Field(10.0, gt=0, le=3600)
    accept_timeout_seconds: float = Field(0.8, gt=0, le=60)
    lease_seconds: float = Field(60.0, ge=1, le=86_400)
    lease_margin_seconds: float = Field(5.0, ge=0.1, le=3600)
    lost_leases: int = Field(3, ge=1, le=1000)
    shutdown_grace_seconds: float = Field(15.0, ge=0, le=3600)
    outbox_grace_seconds: float = Field(5.0, gt=0, le=3600)
    relay_poll_seconds: float = Field(0.5, gt=0, le=60)
    ready_depth: int = Field(2000, ge=1, le=1_000_000)
    sweep_after_seconds: float = Field(30.0, gt=0, le=3600)
    report_timeout_seconds: float = Field(3600.0, gt=0, le=86_400)
    report_retry: RetrySettings = RetrySettings(attempts=4, base_seconds=2, cap_seconds=60)
    callback_secrets: list[Annotated[str, AfterValidator(_secret)]] = Field([], max_length=5, repr=False)
    callback_url: str | None = None
    callback_allow: list[Network] = []
    callback_ports: list[Annotated[int, Field(ge=1, le=65_535)]] = sorted(PORTS)
    callback_timeout_seconds: float = Field(15.0, gt=0, le=60)
    callback_concurrency: int = Field(64, ge=2, le=1000)
    callback_retry_seconds: list[Annotated[float, Field(gt=0, le=604_800)]] = list(STANDARD_SCHEDULE)
    callback_deadline_seconds: float = Field(604_800.0, gt=0, le=31_536_000)
    watchdog_seconds: float = Field(30.0, gt=0, le=3600)
    status_ttl_seconds: float = Field(5.0, gt=0, le=3600)
    heartbeat_file: Path | None = None

    @field_validator("providers")
    @classmethod
    def _names(cls, providers: dict[str, ProviderSettings]) -> dict[str, ProviderSettings]:
        for name in providers:
            if not _NAME.fullmatch(name):
                raise ValueError(f"the provider name {name!r} is not of the form [a-z0-9][a-z0-9-]{{0,31}}")
        return providers

    @model_validator(mode="before")
    @classmethod
    def _read_providers_file(cls, values: dict[str, Any]) -> dict[str, Any]:
        path = values.get("providers_file")
        if not path:
            return values
        if values.get("providers"):
            raise ValueError(f"{PREFIX}PROVIDERS and {PREFIX}PROVIDERS_FILE are both set; set one")
        try:
            return {**values, "providers": json.loads(Path(path).read_text("utf-8"))}
        except (OSError, ValueError) as error:
            raise ValueError(f"{PREFIX}PROVIDERS_FILE: {path} cannot be read as JSON: {error}") from error

    @model_validator(mode="after")
    def _fit(self) -> "Settings":
        for name, provider in self.providers.items():
            if provider.timeout_seconds + self.lease_margin_seconds >= self.lease_seconds:
                raise ValueError(
                    f"{PREFIX}LEASE_SECONDS is {self.lease_seconds:g}: it must exceed provider {name!r}'s timeout_seconds "
                    f"({provider.timeout_seconds:g}) + {PREFIX}LEASE_MARGIN_SECONDS ({self.lease_margin_seconds:g})"
                )
        if self.shutdown_grace_seconds >= self.lease_seconds:
            raise ValueError(f"{PREFIX}SHUTDOWN_GRACE_SECONDS must be shorter than {PREFIX}LEASE_SECONDS")
        if self.backlog_low >= self.backlog_high:
            raise ValueError(f"{PREFIX}BACKLOG_LOW must be less than {PREFIX}BACKLOG_HIGH")
        self._callbacks_fit()
        if self.default_provider is not None and self.default_provider not in self.providers:
            raise ValueError(f"{PREFIX}DEFAULT_PROVIDER: {self.default_provider!r} is not among the providers")
        return self

    def _callbacks_fit(self) -> None:
        if (
            self.callback_secrets
            and CALLBACK_WAIT_SECONDS + self.callback_timeout_seconds + self.lease_margin_seconds >= self.lease_seconds
        ):
            raise ValueError(
                f"{PREFIX}LEASE_SECONDS is {self.lease_seconds:g}: it must exceed {PREFIX}CALLBACK_TIMEOUT_SECONDS "
                f"({self.callback_timeout_seconds:g}) + {PREFIX}LEASE_MARGIN_SECONDS ({self.lease_margin_seconds:g}) + 1"
            )
        if self.callback_url is None:
            return
        if not self.callback_secrets:
            raise ValueError(
                f"{PREFIX}CALLBACK_URL is set and {PREFIX}CALLBACK_SECRETS is not; `posthaste callbacks secret` makes one"
            )
        try:
            self.guard().check(self.callback_url)
        except Refused as error:
            raise ValueError(f"{PREFIX}CALLBACK_URL: {error}") from error

    @property
    def owner_url(self) -> str:
        """The URL under which the schema is made and changed."""
        return self.migration_database_url or self.database_url

    def guard(self) -> Guard:
        """Which URLs may be called on a client's word."""
        return Guard(self.callback_allow, self.callback_ports)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, dotenv_settings)

    def policies(self) -> dict[str, RetryPolicy]:
        """When a failed job is tried again, by the logical name of each work queue."""
        others = {
            REPORTS.name: self.report_retry.policy(),
            CALLBACKS.name: schedule_policy(tuple(self.callback_retry_seconds), self.callback_deadline_seconds),
        }
        return {
            queue.name: others[queue.name] if queue.provider is None else self.providers[queue.provider].retry.policy()
            for queue in work_queues(self.providers)
        }

    def deadlines(self) -> dict[str, float]:
        """The seconds after which a job is not tried again, by the logical name of each work queue."""
        return {name: policy.deadline_seconds for name, policy in self.policies().items()}

    def provider_for_new_messages(self) -> str:
        """The provider of a message that names none.

        Raises:
            SettingsError: no provider is configured, or several and no default.
        """
        if self.default_provider is not None:
            return self.default_provider
        if len(self.providers) == 1:
            return next(iter(self.providers))
        if not self.providers:
            raise SettingsError(
                f"{PREFIX}PROVIDERS is not set: name at least one, for example "
                f'{PREFIX}PROVIDERS=\'{{"sandbox": {{"kind": "http", "url": "http://127.0.0.1:9007/message"}}}}\''
            )
        raise SettingsError(f"{PREFIX}DEFAULT_PROVIDER is not set, and there are several: {', '.join(self.providers)}")


def load() -> Settings:
    """Read the settings from the environment and `ENV_FILES`.

    Raises:
        SettingsError: naming every variable that is missing, unknown or wrong.
    """
    _refuse_unknown(dict(os.environ))
    for file in map(Path, ENV_FILES):
        if file.is_file():
            _refuse_unknown(dict(line.split("=", 1) for line in file.read_text("utf-8").splitlines() if "=" in line), file)
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors())) from error
    except UnreadableValue as error:
        field = re.search(r'field "(\w+)"', str(error))
        raise SettingsError(f"{PREFIX}{field[1].upper() if field else '…'}: is not valid JSON") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_unknown(variables: dict[str, str], file: Path | None = None) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in variables if name.strip().startswith(PREFIX) and name.strip() not in known)
    if unknown:
        where = f" (in {file})" if file else ""
        raise SettingsError(f"unknown setting {', '.join(unknown)}{where}; .env.example lists those that exist")


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    if not location:
        return str(problem["msg"]).removeprefix("Value error, ")
    name = PREFIX + location[0].upper() + "".join(f".{part}" for part in location[1:])
    if problem["type"] == "missing" and len(location) == 1:
        return f"{name} is not set; `make services` finds or starts the service and writes it to {ENV_FILES[0]}"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}"
