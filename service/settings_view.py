"""The settings in force, by section, for people: each with its value, its default and its description. Secrets are masked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic_core import PydanticUndefined, to_jsonable_python

from service.settings import PREFIX, Settings

MASK = "••••••"
SECTIONS = {
    "Services": ("database_url", "migration_database_url", "amqp_url", "redis_url", "management_url", "namespace"),
    "API": (
        "host", "port", "allowed_hosts", "trusted_proxies", "request_timeout_seconds", "accept_timeout_seconds",
        "waiting_per_key", "status_ttl_seconds",
    ),
    "Clients and limits": ("auth", "api_key", "rate_per_key", "rate_per_address", "backlog_high", "backlog_low"),
    "Providers": ("providers", "providers_file", "default_provider"),
    "Workers and relay": (
        "lease_seconds", "lease_margin_seconds", "worker_grace_seconds", "lost_leases", "shutdown_grace_seconds",
        "watchdog_seconds", "outbox_grace_seconds", "relay_poll_seconds", "ready_depth", "sweep_after_seconds",
        "heartbeat_file",
    ),
    "Metrics": ("metrics_port", "metrics_host"),
    "Reports": (
        "report_timeout_seconds", "report_processes", "report_scheduler", "report_snapshot_seconds", "report_retry",
    ),
    "Callbacks": (
        "callback_secrets", "callback_url", "callback_allow", "callback_ports", "callback_timeout_seconds",
        "callback_concurrency", "callback_retry_seconds", "callback_deadline_seconds",
    ),
    "Operator events": ("operator_url", "operator_dead_letters", "operator_age_seconds"),
    "Retention, logs and traces": ("retain_body", "retention_days", "log_level", "log_format", "tracing"),
}  # fmt: skip
_SECRETS = {"api_key", "callback_secrets"}
_NAMED_PATHS = {"database_url", "migration_database_url", "amqp_url", "redis_url"}  # their path names a database or a vhost


@dataclass(frozen=True, slots=True)
class SettingInForce:
    """One setting as text. `is_default`: its value is the default."""

    variable: str
    value: str
    is_default: bool
    description: str


def settings_in_force(settings: Settings) -> dict[str, list[SettingInForce]]:
    """Every setting by section, without any secret."""
    return {title: [_setting(settings, name) for name in names] for title, names in SECTIONS.items()}


def _setting(settings: Settings, name: str) -> SettingInForce:
    value, field = getattr(settings, name), Settings.model_fields[name]
    default = field.get_default(call_default_factory=True)
    is_default = default is not PydanticUndefined and value == default
    return SettingInForce(PREFIX + name.upper(), _text(name, value), is_default, field.description or "")


def _text(name: str, value: Any) -> str:
    if value is None or value in ([], {}):
        return ""
    if name in _SECRETS:
        return MASK if isinstance(value, str) else ", ".join([MASK] * len(value))
    plain = to_jsonable_python(value)
    if isinstance(plain, str):
        return masked_url(plain, with_path=name in _NAMED_PATHS) if "://" in plain else plain
    if isinstance(plain, dict | list):
        return orjson.dumps(_masked(plain), option=orjson.OPT_INDENT_2).decode()
    return orjson.dumps(plain).decode()


def _masked(value: Any, name: str = "") -> Any:
    """JSON without secrets. A secret is the member `text` of an object; `env` and `file` name its place only."""
    if isinstance(value, Mapping):
        members = {key: _masked(each, key) for key, each in value.items() if each is not None}
        return MASK if set(members) == {"text"} else members
    if isinstance(value, list):
        return [_masked(each) for each in value]
    return masked_url(value, with_path=False) if name == "url" else value


def masked_url(url: str, *, with_path: bool) -> str:
    """A URL without password and query. Many providers put a secret into the path, so it is masked, too."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets without an address
        return MASK
    credentials, _, host = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    shown = f"{user}:{MASK}@" if password else f"{user}@" if user else ""
    path = parts.path if with_path or parts.path in ("", "/") else f"/{MASK}"
    return f"{parts.scheme}://{shown}{host}{path}" + (f"?{MASK}" if parts.query else "")
