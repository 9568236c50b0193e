"""Settings: `POSTHASTE_…` variables, read once by each process, frozen, and refused at start by name."""

import json
import os
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import limits
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

from infra.tls import check_tls
from infra.webhooks.guard import PORTS, Guard, Network, Refused
from infra.webhooks.signing import check_secret
from jobs.model import CALLBACKS, REPORTS, Kind, Priority, message_queue
from jobs.retry import RetryPolicy, schedule_policy
from service.provider_settings import Count, HttpUrl, ProviderName, ProviderSettings, RetrySettings, Seconds, form

PREFIX = "POSTHASTE_"
# Later files win over earlier ones, the environment over all. `make services` writes the first, and `posthaste up --sandbox`
# the second while it runs, so that commands in another terminal know the same providers.
SANDBOX_FILE = ".local/sandbox.env"
ENV_FILES = (".local/services.env", SANDBOX_FILE, ".env")
CALLBACK_WAIT_SECONDS = 1.0  # seconds that a callback may wait for its host's share of the slots
# A worker has a channel for each queue, two a provider; RabbitMQ allows 2,047 channels on a connection.
MOST_PROVIDERS = 1000

T = TypeVar("T", bound=BaseSettings)


class SettingsError(Exception):
    """The settings cannot be used; the message names each variable and what is wrong with it."""


def _rate(value: str) -> str:
    try:
        limits.parse(value)
    except ValueError as error:
        raise ValueError("must be of the form 100/second, 60/minute or 5/10seconds") from error
    return value


Port = Annotated[int, Field(ge=1, le=65_535)]
Delay = Annotated[float, Field(gt=0, le=604_800)]
Secret = Annotated[str, AfterValidator(check_secret)]
Rate = Annotated[str, AfterValidator(_rate)]
HostName = Annotated[str, form(r"\*|[A-Za-z0-9][A-Za-z0-9.-]{0,252}", "a host name without scheme and port, or *")]
BrokerUrl = Annotated[str, form("amqps?://.*", "an amqp:// or amqps:// URL"), AfterValidator(check_tls)]
CacheUrl = Annotated[str, form("(rediss?|unix)://.*", "a redis://, rediss:// or unix:// URL"), AfterValidator(check_tls)]
# Empty: none. Compose passes an empty text.
SchedulerUrl = Annotated[str, form("((tcp|tls)://.+:[0-9]+)?", "a tcp:// or tls:// URL with a port")]
DatabaseUrl = Annotated[str, form("postgres(ql)?://.*", "a postgresql:// or postgres:// URL"), AfterValidator(check_tls)]


class _Environment(EnvSettingsSource):
    """The environment's variables; a value that is not JSON is refused by the variable's name."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}{field_name.upper()}: is not valid JSON") from error


class _Files(_Environment, DotEnvSettingsSource):
    """The same from `ENV_FILES`."""


class ApiSettings(
    BaseSettings,
    env_prefix=PREFIX,
    env_file=ENV_FILES,
    frozen=True,
    extra="ignore",
    use_attribute_docstrings=True,
    hide_input_in_errors=True,  # it may be a secret
):
    """The settings of a command that calls the API: its address and the command's key."""

    host: str = "127.0.0.1"
    """The address at which the API listens."""
    port: Port = 9006
    """The port at which the API listens."""
    api_key: str | None = Field(None, repr=False, examples=["ph_…"])
    """The API key that the `posthaste` command sends."""

    @property
    def api_url(self) -> str:
        """The API's URL. A literal IPv6 address has brackets."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @classmethod
    def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
        return init_settings, _Environment(settings_cls), _Files(settings_cls)


class Settings(ApiSettings):
    """All settings. `make docs` writes docs/configuration.md and .env.example from the texts below the fields."""

    database_url: DatabaseUrl = Field(examples=["postgresql://posthaste:secret@127.0.0.1/posthaste"])
    """The Postgres database, as the role that runs. `make services` writes this setting."""
    migration_database_url: DatabaseUrl | None = Field(
        None, examples=["postgresql://posthaste_owner:secret@127.0.0.1/posthaste"]
    )
    """The same database, as the schema's owner. Only `posthaste migrate` uses it, and grants the other role its privileges."""
    amqp_url: BrokerUrl = Field(examples=["amqp://guest:guest@127.0.0.1:5672/"])
    """The RabbitMQ broker. `make services` writes this setting."""
    redis_url: CacheUrl = Field(examples=["redis://127.0.0.1:6379/0"])
    """The Redis server. `make services` writes this setting."""
    management_url: HttpUrl | None = Field(None, examples=["http://guest:guest@127.0.0.1:15672"])
    """RabbitMQ's management API. `posthaste up` shows it, without its password; `posthaste rabbitmq-user` calls it."""
    namespace: str = Field("posthaste", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """The prefix of every exchange, queue and cache key. One database belongs to one namespace."""
    allowed_hosts: list[HostName] = Field([], examples=[["posthaste.example.com"]])
    """Host names under which clients call the API. Addresses, `localhost` and POSTHASTE_HOST need no entry. Without keys, other
    hosts get 421. With keys, the list is checked only if it has an entry. `["*"]` allows every name.
    """
    auth: Literal["auto", "off"] = "auto"
    """`auto` requires a key as soon as one exists; until then the API listens on loopback only. `off` never requires a key."""
    rate_per_key: Rate = "1000/second"
    """The number of requests that one key may make in a period."""
    rate_per_address: Rate = "60/minute"
    """The number of requests without a usable key that one address may make in a period."""
    trusted_proxies: list[Network] = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    """The networks of reverse proxies. `X-Forwarded-For` is read only in requests from these."""
    backlog_high: int = Field(200_000, ge=1)
    """The number of waiting jobs at which a client's submissions get 503."""
    backlog_low: int = Field(150_000, ge=0)
    """The number of waiting jobs at which they are accepted again."""
    retain_body: bool = True
    """`false` deletes a message's body once it is sent. Dead letters keep theirs. No provider's answer is stored."""
    retention_days: dict[Kind, Annotated[float, Field(gt=0, le=36_500)]] = dict.fromkeys(Kind, 30.0)
    """The days after its end when a job is deleted, by kind; never, if absent. Unhandled failed and unknown jobs are kept."""
    waiting_per_key: int = Field(1000, ge=1, le=100_000)
    """The number of long polls and event streams that one key may hold at one API process."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged: `debug`, `info`, `warning` or `error`."""
    log_format: Literal["console", "json"] = "console"
    """The format of log lines: `console` for people, `json` for machines."""
    tracing: Literal["off", "otlp"] = "off"
    """`otlp` sends spans to a collector. It needs the extra `tracing`. OpenTelemetry's variables, such as
    OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_TRACES_SAMPLER, configure exporter and sampler.
    """
    providers: dict[ProviderName, ProviderSettings] = Field(
        {}, max_length=MOST_PROVIDERS, examples=[{"sandbox": {"kind": "http", "url": "http://127.0.0.1:9007/message"}}]
    )
    """Providers by name, at most 1,000."""
    providers_file: Path | None = Field(None, examples=["providers.json"])
    """A JSON file with the same content, instead of POSTHASTE_PROVIDERS."""
    default_provider: str | None = Field(None, examples=["sandbox"])
    """The provider of messages that name none. Several providers require it."""
    request_timeout_seconds: Seconds = 10.0
    """The seconds in which a request must arrive, from its first byte to the last byte of its body. A late request gets 408."""
    accept_timeout_seconds: float = Field(0.8, gt=0, le=60)
    """The seconds in which Postgres must confirm an acceptance. A late one gets 503. Raise it where commits are slow."""
    lease_seconds: float = Field(60.0, ge=1, le=86_400)
    """The seconds for which a claimed job belongs to its worker. It must exceed each provider's timeout plus the margin."""
    lease_margin_seconds: float = Field(5.0, ge=0.1, le=3600)
    """The seconds of the lease that remain after a provider's timeout, for recording the outcome."""
    worker_grace_seconds: float = Field(2.0, ge=0.5, le=60)
    """The seconds without a worker's advisory lock after which its jobs are taken back. The lock ends with its process."""
    lost_leases: Count = 3
    """The number of lost leases after which a job fails as `worker_lost`."""
    shutdown_grace_seconds: float = Field(15.0, ge=0, le=3600)
    """The seconds in which a worker finishes its running jobs after SIGTERM."""
    outbox_grace_seconds: Seconds = 5.0
    """The seconds after a commit in which only the committing process publishes. Then the relay does."""
    relay_poll_seconds: float = Field(0.5, gt=0, le=60)
    """The seconds between two reads of the outbox by the relay."""
    ready_depth: int = Field(2000, ge=1, le=1_000_000)
    """The number of ready messages up to which the relay fills a queue."""
    sweep_after_seconds: Seconds = 30.0
    """The seconds for which a queue shows no message although jobs wait for it. Then their messages are published again."""
    report_timeout_seconds: float = Field(3600.0, gt=0, le=86_400)
    """The longest time, in seconds, that one report may take."""
    report_processes: int | None = Field(None, ge=1, le=256)
    """The number of processes with which a worker counts a report. Each has a connection to Postgres, which keeps another
    processor busy. Unset: half of the processors, at least one.
    """
    report_scheduler: SchedulerUrl | None = Field(None, examples=["tcp://127.0.0.1:8786"])
    """The Dask scheduler whose workers count reports, in place of processes of the worker. It needs the extra `dask`. Each Dask
    worker needs Posthaste and POSTHASTE_DATABASE_URL.
    """
    report_snapshot_seconds: float = Field(900.0, ge=1, le=86_400)
    """The longest time, in seconds, that a report keeps its snapshot. Vacuum removes no row that it
    sees, of any table. A report that takes longer begins again, at most three times in an attempt.
    """
    report_retry: RetrySettings = RetrySettings(attempts=4, base_seconds=2, cap_seconds=60)
    """When failed reports are retried. The fields are those of a provider's `retry`."""
    callback_secrets: list[Secret] = Field([], max_length=5, repr=False, examples=[["whsec_…"]])
    """The secrets that sign callbacks; `posthaste callbacks secret` makes one. An empty list disables callbacks. Rotation: add
    the new secret in front, give it to the receivers, remove the old one.
    """
    callback_url: str | None = Field(None, examples=["https://example.com/posthaste"])
    """The default callback URL."""
    operator_url: str | None = Field(None, examples=["https://example.com/posthaste-events"])
    """The URL that gets operator events: signed callbacks about breakers, dead letters, ages and the relay.
    Without it, none are sent.
    """
    operator_dead_letters: int = Field(100, ge=1, le=10_000)
    """The number of dead letters of one kind at which `dead_letters.high` is sent. At half of it, `dead_letters.normal` is."""
    operator_age_seconds: float = Field(300.0, gt=0, le=31_536_000)
    """The age of a queue's oldest due job at which `age.high` is sent. At half of it, `age.normal` is."""
    callback_allow: list[Network] = Field([], examples=[["10.1.0.0/16", "192.0.2.7"]])
    """Networks besides public addresses that get callbacks, at any port. `posthaste up --sandbox` allows loopback if unset."""
    callback_ports: list[Port] = sorted(PORTS)
    """The ports of public addresses to which callbacks may go."""
    callback_timeout_seconds: float = Field(15.0, gt=0, le=60)
    """The seconds in which a receiver must answer."""
    callback_concurrency: int = Field(64, ge=2, le=1000)
    """The simultaneous callbacks of a worker: half for one client at one host, three quarters for one client or one host."""
    # Standard Webhooks 1.0.0, "Deliverability and reliability": the delays after each failed attempt, three days in all.
    callback_retry_seconds: list[Delay] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    """The seconds after each failed attempt. By default, the schedule of Standard Webhooks. Attempts exceed delays by one."""
    callback_deadline_seconds: float = Field(604_800.0, gt=0, le=31_536_000)
    """The age, in seconds, after which a callback is not retried, even if its receiver only deferred it."""
    watchdog_seconds: Seconds = 30.0
    """A worker without a delivery for these seconds, despite messages and a free slot, reconnects. If that fails, it ends."""
    status_ttl_seconds: Seconds = 5.0
    """The seconds for which the cache keeps a status that can still change."""
    metrics_port: Port | None = Field(None, examples=[9010])
    """The port at which this worker or relay process serves its metrics; none, if unset. Each process needs its own. The API
    serves them at its own port.
    """
    metrics_host: str = "127.0.0.1"
    """The address of that port."""
    heartbeat_file: Path | None = Field(None, examples=["/run/posthaste.heartbeat"])
    """A file that workers and the relay touch each second while RabbitMQ is connected and Postgres answers."""

    @model_validator(mode="before")
    @classmethod
    def _read_providers_file(cls, values: dict[str, Any]) -> dict[str, Any]:
        path = values.get("providers_file")
        if not path:
            return values
        if values.get("providers"):
            raise ValueError("POSTHASTE_PROVIDERS and POSTHASTE_PROVIDERS_FILE are both set; set one")
        try:
            return {**values, "providers": json.loads(Path(path).read_text("utf-8"))}
        except (OSError, ValueError) as error:
            raise ValueError(f"POSTHASTE_PROVIDERS_FILE: {path} cannot be read as JSON: {error}") from error

    @model_validator(mode="after")
    def _fit(self) -> "Settings":
        calls = {f"provider {name!r}'s timeout_seconds": each.timeout_seconds for name, each in self.providers.items()}
        if self.callback_secrets:
            calls["1 + POSTHASTE_CALLBACK_TIMEOUT_SECONDS"] = CALLBACK_WAIT_SECONDS + self.callback_timeout_seconds
        faults = [
            f"POSTHASTE_LEASE_SECONDS is {self.lease_seconds:g}: it must exceed {name} ({seconds:g}) + "
            f"POSTHASTE_LEASE_MARGIN_SECONDS ({self.lease_margin_seconds:g})"
            for name, seconds in calls.items()
            if seconds + self.lease_margin_seconds >= self.lease_seconds
        ]
        if self.shutdown_grace_seconds >= self.lease_seconds:
            faults.append("POSTHASTE_SHUTDOWN_GRACE_SECONDS must be shorter than POSTHASTE_LEASE_SECONDS")
        if self.backlog_low >= self.backlog_high:
            faults.append("POSTHASTE_BACKLOG_LOW must be less than POSTHASTE_BACKLOG_HIGH")
        if self.default_provider not in (None, *self.providers):
            faults.append(f"POSTHASTE_DEFAULT_PROVIDER: {self.default_provider!r} is not among the providers")
        faults += self._url_faults("CALLBACK_URL", self.callback_url) + self._url_faults("OPERATOR_URL", self.operator_url)
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _url_faults(self, name: str, url: str | None) -> list[str]:
        """The faults of a URL that gets callbacks."""
        if url is None:
            return []
        faults = []
        if not self.callback_secrets:
            secrets = "POSTHASTE_CALLBACK_SECRETS is not; `posthaste callbacks secret` makes one"
            faults.append(f"{PREFIX}{name} is set and {secrets}")
        try:
            self.guard().check(url)
        except Refused as error:
            faults.append(f"{PREFIX}{name}: {error}")
        return faults

    @property
    def owner_url(self) -> str:
        """The URL under which the schema is made and changed."""
        return self.migration_database_url or self.database_url

    def provider_headers(self) -> dict[str, dict[str, str]]:
        """The headers of each provider's requests. Raises `SettingsError`: a secret is missing, or cannot be read."""
        headers, faults = {}, []
        for name, provider in self.providers.items():
            try:
                headers[name] = provider.request_headers()
            except ValueError as error:
                faults.append(f"{PREFIX}PROVIDERS.{name}.{error}")
        if faults:
            raise SettingsError("\n".join(faults))
        return headers

    def guard(self) -> Guard:
        """The guard of callback URLs."""
        return Guard(self.callback_allow, self.callback_ports)

    def policies(self) -> dict[str, RetryPolicy]:
        """The retry policy of each work queue, by the queue's logical name."""
        callbacks = schedule_policy(tuple(self.callback_retry_seconds), self.callback_deadline_seconds)
        policies = {REPORTS.name: RetryPolicy(**self.report_retry.model_dump()), CALLBACKS.name: callbacks}
        for name, provider in self.providers.items():
            retry = RetryPolicy(**provider.retry.model_dump())
            policies |= {message_queue(name, priority).name: retry for priority in Priority}
        return policies

    def deadlines(self) -> dict[str, float]:
        """The seconds after which a job is not retried, by the logical name of each work queue."""
        return {name: policy.deadline_seconds for name, policy in self.policies().items()}

    def provider_for_new_messages(self) -> str:
        """The provider of a message that names none. Raises `SettingsError` without a provider, or a default among several."""
        if not self.providers:
            raise SettingsError(
                "POSTHASTE_PROVIDERS is not set: name at least one, for example "
                'POSTHASTE_PROVIDERS=\'{"sandbox": {"kind": "http", "url": "http://127.0.0.1:9007/message"}}\''
            )
        if self.default_provider is None and len(self.providers) > 1:
            raise SettingsError(f"POSTHASTE_DEFAULT_PROVIDER is not set, and there are several: {', '.join(self.providers)}")
        return self.default_provider or next(iter(self.providers))


def load() -> Settings:
    """Read the settings from the environment and `ENV_FILES`. `SettingsError` names missing, unknown and wrong variables."""
    known, variables = {PREFIX + name.upper() for name in Settings.model_fields}, {"": list(os.environ)}
    for file in filter(Path.is_file, map(Path, ENV_FILES)):
        variables[f" (in {file})"] = [line.partition("=")[0].strip() for line in file.read_text("utf-8").splitlines()]
    for where, names in variables.items():
        if unknown := sorted(name for name in names if name.startswith(PREFIX) and name not in known):
            raise SettingsError(f"unknown setting {', '.join(unknown)}{where}; .env.example lists those that exist")
    return _validated(Settings)


def load_api_settings() -> ApiSettings:
    """Read the address and the key alone; other settings may be missing or wrong. `SettingsError` names wrong variables."""
    return _validated(ApiSettings)


def _validated(settings: type[T]) -> T:
    try:
        return settings()
    except ValidationError as error:
        raise SettingsError("\n".join(map(_explain, error.errors()))) from error


def _explain(problem: Any) -> str:
    text, location = problem["msg"].removeprefix("Value error, "), problem["loc"]
    if not location:
        return str(text)
    name = PREFIX + location[0].upper() + "".join(f".{part}" for part in location[1:] if part != "[key]")
    if problem["type"] == "missing" and len(location) == 1:
        return f"{name} is not set; run this in the checkout, where `make services` writes it to {ENV_FILES[0]}"
    return f"{name}: {text}"
