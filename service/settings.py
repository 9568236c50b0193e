"""Settings: `POSTHASTE_…` variables, read once by each process, frozen, and refused at start by name."""

import json
import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

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

T = TypeVar("T", bound=BaseSettings)


class SettingsError(Exception):
    """The settings cannot be used; the message names each variable and what is wrong with it."""


class RetrySettings(BaseModel):
    """When failed attempts (at a provider, or at a report) are repeated; see `jobs.retry`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    attempts: int = Field(8, ge=1, le=1000, description="The number of charged attempts after which a job fails.")
    base_seconds: float = Field(
        1.0, gt=0, le=86_400, description="The longest first delay, in seconds. Each further one may be twice as long."
    )
    cap_seconds: float = Field(300.0, gt=0, le=86_400, description="The longest delay, in seconds.")
    deadline_seconds: float = Field(
        86_400.0,
        gt=0,
        le=31_536_000,
        description="The age, in seconds since acceptance or requeue, after which a job is not retried.",
    )
    deferrals: int = Field(
        50, ge=1, le=1000, description="The number of uncharged deferrals of a revision. Each further one is charged."
    )

    def policy(self) -> RetryPolicy:
        return RetryPolicy(self.attempts, self.base_seconds, self.cap_seconds, self.deadline_seconds, deferrals=self.deferrals)


class BreakerSettings(BaseModel):
    """When a provider that does not answer is left alone; see `jobs.breaker`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    failures: int = Field(
        5, ge=1, le=1000, description="The number of consecutive calls without an answer that open the breaker."
    )
    open_seconds: float = Field(
        5.0, gt=0, le=3600, description="The seconds for which the breaker first stays open. Each failed probe doubles them."
    )
    cap_seconds: float = Field(
        60.0, gt=0, le=3600, description="The longest time, in seconds, for which the breaker stays open."
    )

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
    kind: Literal["http"] = Field("http", description="The protocol. `http` posts `{destination, body}` to the URL.")
    url: Annotated[str, AfterValidator(_http_url)] = Field(description="The URL to which each message is posted.")
    timeout_seconds: float = Field(10.0, gt=0, le=3600, description="The longest time, in seconds, that one call may take.")
    concurrency: int = Field(64, ge=1, le=1000, description="The number of simultaneous calls in each worker process.")
    retry: RetrySettings = Field(RetrySettings(), description="When failed attempts are retried.")
    breaker: BreakerSettings = Field(BreakerSettings(), description="When the breaker opens.")


def _scheme(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        if not value.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return AfterValidator(check)


class ApiSettings(BaseSettings):
    """The settings of a command that calls the API: its address and the command's key."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_file=ENV_FILES)

    host: str = Field("127.0.0.1", description="The address at which the API listens.")
    port: int = Field(9006, ge=1, le=65_535, description="The port at which the API listens.")
    api_key: str | None = Field(
        None, repr=False, description="The API key that the `posthaste` command sends.", examples=["ph_…"]
    )

    @property
    def api_url(self) -> str:
        """The API's URL. A literal IPv6 address has brackets."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

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


class Settings(ApiSettings):
    """All settings. `make docs` writes docs/configuration.md and .env.example from their descriptions."""

    database_url: Annotated[str, _scheme("postgresql", "postgres"), AfterValidator(check_tls)] = Field(
        description="The Postgres database, as the role that runs. `make services` writes this setting.",
        examples=["postgresql://posthaste:secret@127.0.0.1:5432/posthaste"],
    )
    migration_database_url: Annotated[str, _scheme("postgresql", "postgres"), AfterValidator(check_tls)] | None = Field(
        None,
        description="The same database, as the role that owns the schema. Only `posthaste migrate` uses it, and grants the "
        "other role its privileges.",
        examples=["postgresql://posthaste_owner:secret@127.0.0.1:5432/posthaste"],
    )
    amqp_url: Annotated[str, _scheme("amqp", "amqps"), AfterValidator(check_tls)] = Field(
        description="The RabbitMQ broker. `make services` writes this setting.", examples=["amqp://guest:guest@127.0.0.1:5672/"]
    )
    redis_url: Annotated[str, _scheme("redis", "rediss", "unix"), AfterValidator(check_tls)] = Field(
        description="The Redis server. `make services` writes this setting.", examples=["redis://127.0.0.1:6379/0"]
    )
    management_url: Annotated[str, AfterValidator(_http_url)] | None = Field(
        None,
        description="RabbitMQ's management API. `posthaste up` shows it, without its password; `posthaste rabbitmq-user` "
        "calls it.",
        examples=["http://guest:guest@127.0.0.1:15672"],
    )
    namespace: str = Field(
        "posthaste",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        description="The prefix of every exchange, queue and cache key. One database belongs to one namespace.",
    )
    allowed_hosts: list[Annotated[str, AfterValidator(_host_name)]] = Field(
        [],
        description="Host names under which clients call the API. Addresses, `localhost` and POSTHASTE_HOST need no entry. "
        'Without keys, other hosts get 421. With keys, the list is checked only if it has an entry. `["*"]` '
        "allows every name.",
        examples=[["posthaste.example.com"]],
    )
    auth: Literal["auto", "off"] = Field(
        "auto",
        description="`auto` requires a key as soon as one exists; until then the API listens on loopback only. `off` never "
        "requires a key.",
    )
    rate_per_key: Annotated[str, AfterValidator(_rate)] = Field(
        "1000/second", description="The number of requests that one key may make in a period."
    )
    rate_per_address: Annotated[str, AfterValidator(_rate)] = Field(
        "60/minute", description="The number of requests without a usable key that one address may make in a period."
    )
    trusted_proxies: list[Network] = Field(
        [ip_network("127.0.0.0/8"), ip_network("::1/128")],
        description="The networks of reverse proxies. `X-Forwarded-For` is read only in requests from these.",
    )
    backlog_high: int = Field(200_000, ge=1, description="The number of waiting jobs at which a client's submissions get 503.")
    backlog_low: int = Field(150_000, ge=0, description="The number of waiting jobs at which they are accepted again.")
    retain_body: bool = Field(
        True,
        description="`false` deletes a message's body as soon as the message is sent. Failed and unknown messages keep theirs.",
    )
    retention_days: dict[Kind, Annotated[float, Field(gt=0, le=36_500)]] = Field(
        dict.fromkeys(Kind, 30.0),
        description="The days after its end when a job is deleted, by kind. Jobs of absent kinds are kept. Failed and unknown "
        "jobs stay until an operator handles them.",
    )
    waiting_per_key: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="The number of long polls and event streams that one key may hold at one API process.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged: `debug`, `info`, `warning` or `error`."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="The format of log lines: `console` for people, `json` for machines."
    )
    providers: dict[str, ProviderSettings] = Field(
        {},
        max_length=MOST_PROVIDERS,
        description="Providers by name, at most 1,000.",
        examples=[{"sandbox": {"kind": "http", "url": "http://127.0.0.1:9007/message"}}],
    )
    providers_file: Path | None = Field(
        None, description="A JSON file with the same content, instead of POSTHASTE_PROVIDERS.", examples=["providers.json"]
    )
    default_provider: str | None = Field(
        None, description="The provider of messages that name none. Several providers require it.", examples=["sandbox"]
    )
    request_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="The seconds in which a request must arrive, from its first byte to the last byte of its body. A late "
        "request gets 408.",
    )
    accept_timeout_seconds: float = Field(
        0.8,
        gt=0,
        le=60,
        description="The seconds in which Postgres must confirm an acceptance. A late one gets 503. Raise it where commits "
        "are slow.",
    )
    lease_seconds: float = Field(
        60.0,
        ge=1,
        le=86_400,
        description="The seconds for which a claimed job belongs to its worker. The lease must exceed each provider's timeout "
        "plus the margin.",
    )
    lease_margin_seconds: float = Field(
        5.0,
        ge=0.1,
        le=3600,
        description="The seconds of the lease that remain after a provider's timeout, for recording the outcome.",
    )
    lost_leases: int = Field(
        3, ge=1, le=1000, description="The number of lost leases after which a job fails as `worker_lost`."
    )
    shutdown_grace_seconds: float = Field(
        15.0, ge=0, le=3600, description="The seconds in which a worker finishes its running jobs after SIGTERM."
    )
    outbox_grace_seconds: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="The seconds after a commit in which only the committing process publishes. Then the relay does.",
    )
    relay_poll_seconds: float = Field(0.5, gt=0, le=60, description="The seconds between two reads of the outbox by the relay.")
    ready_depth: int = Field(
        2000, ge=1, le=1_000_000, description="The number of ready messages up to which the relay fills a queue."
    )
    sweep_after_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="The seconds for which a queue shows no message although jobs wait for it. Then their messages are "
        "published again.",
    )
    report_timeout_seconds: float = Field(
        3600.0, gt=0, le=86_400, description="The longest time, in seconds, that one report may take."
    )
    report_retry: RetrySettings = Field(
        RetrySettings(attempts=4, base_seconds=2, cap_seconds=60),
        description="When failed reports are retried. The fields are those of a provider's `retry`.",
    )
    callback_secrets: list[Annotated[str, AfterValidator(_secret)]] = Field(
        [],
        max_length=5,
        repr=False,
        description="The secrets that sign callbacks; `posthaste callbacks secret` makes one. An empty list disables "
        "callbacks. Rotation: add the new secret in front, give it to the receivers, remove the old one.",
        examples=[["whsec_…"]],
    )
    callback_url: str | None = Field(None, description="The default callback URL.", examples=["https://example.com/posthaste"])
    callback_allow: list[Network] = Field(
        [],
        description="Networks to which callbacks may go besides public addresses, at any port. `posthaste up --sandbox` "
        "allows loopback if this is not set.",
        examples=[["10.1.0.0/16", "192.0.2.7"]],
    )
    callback_ports: list[Annotated[int, Field(ge=1, le=65_535)]] = Field(
        sorted(PORTS), description="The ports of public addresses to which callbacks may go."
    )
    callback_timeout_seconds: float = Field(15.0, gt=0, le=60, description="The seconds in which a receiver must answer.")
    callback_concurrency: int = Field(
        64,
        ge=2,
        le=1000,
        description="The number of simultaneous callbacks in each worker process. One client at one host gets half of them; "
        "one client or one host gets three quarters.",
    )
    callback_retry_seconds: list[Annotated[float, Field(gt=0, le=604_800)]] = Field(
        list(STANDARD_SCHEDULE),
        description="The delays after each failed attempt, in seconds. The default is the schedule of Standard Webhooks. "
        "Attempts exceed delays by one.",
    )
    callback_deadline_seconds: float = Field(
        604_800.0,
        gt=0,
        le=31_536_000,
        description="The age, in seconds, after which a callback is not retried, even if its receiver only deferred it.",
    )
    watchdog_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="The seconds without a delivery, while messages wait and a slot is free, after which a worker reconnects. "
        "If that fails, it ends.",
    )
    status_ttl_seconds: float = Field(
        5.0, gt=0, le=3600, description="The seconds for which the cache keeps a status that can still change."
    )
    heartbeat_file: Path | None = Field(
        None,
        description="A file that workers and the relay touch each second while RabbitMQ is connected and Postgres answers.",
        examples=["/run/posthaste.heartbeat"],
    )

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
    return _validated(Settings)


def load_api_settings() -> ApiSettings:
    """Read the address and the key alone. Other settings may be missing or invalid.

    Raises:
        SettingsError: naming every variable that is wrong.
    """
    return _validated(ApiSettings)


def _validated(settings: type[T]) -> T:
    try:
        return settings()
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
        return f"{name} is not set; run this in the checkout, where `make services` writes it to {ENV_FILES[0]}"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}"
