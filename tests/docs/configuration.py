"""docs/configuration.md and .env.example, from the fields of `Settings`."""

import json
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from service.provider_settings import AuthSettings, BasicAuth, BreakerSettings, ProviderSettings, RetrySettings
from service.secrets import Secret
from service.settings import PREFIX, Settings

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
    "Reports": ("report_timeout_seconds", "report_retry"),
    "Callbacks": (
        "callback_secrets", "callback_url", "callback_allow", "callback_ports", "callback_timeout_seconds",
        "callback_concurrency", "callback_retry_seconds", "callback_deadline_seconds",
    ),
    "Operator events": ("operator_url", "operator_dead_letters", "operator_age_seconds"),
    "Retention, logs and traces": ("retain_body", "retention_days", "log_level", "log_format", "tracing"),
}  # fmt: skip

HEADER = """\
# Configuration

For operators who deploy Posthaste or change a setting.
`make docs` writes this page from `service/settings.py` and `service/provider_settings.py`.

Each process reads its settings once, at start. Wrong and unknown names are refused, and each is printed.
The environment wins over `.env`. `.env` wins over `.local/sandbox.env` and `.local/services.env`.
`make services` writes `.local/services.env`. `posthaste up --sandbox` writes `.local/sandbox.env` while it runs.
Lists, objects and booleans are JSON. [.env.example](../.env.example) shows every setting.
"""

PROVIDER = """
[providers.md](providers.md) describes requests, answers, credentials and outages, with examples.
A secret is a text, `{"env": "NAME"}` or `{"file": "/run/secrets/name"}`.
"""

MODELS: dict[str, type[BaseModel]] = {
    "a provider": ProviderSettings, "`auth`": AuthSettings, "`basic`": BasicAuth, "a secret": Secret, "`retry`": RetrySettings,
    "`breaker`": BreakerSettings,
}  # fmt: skip

COMPOSE = """\
# docker-compose.yml only: the passwords of the services that it starts. Change them. URLs contain them: use letters and digits.
# The user `posthaste` of each service, under which all processes run.
POSTGRES_PASSWORD=change-me
RABBITMQ_PASSWORD=change-me-too
REDIS_PASSWORD=change-me-as-well
# The role `posthaste_owner`, under which `posthaste migrate` runs. The administrators are `postgres` and `admin` (RabbitMQ).
POSTGRES_OWNER_PASSWORD=change-me-owner
POSTGRES_ADMIN_PASSWORD=change-me-admin
RABBITMQ_ADMIN_PASSWORD=change-me-admin-too
"""


def page() -> str:
    """docs/configuration.md."""
    parts = [HEADER]
    for title, names in SECTIONS.items():
        parts.append(f"\n## {title}\n\n{_table(Settings, names, PREFIX)}")
        if title == "Providers":
            parts.append(PROVIDER)
            for label, model in MODELS.items():
                parts.append(f"\nThe fields of {label}:\n\n{_table(model, tuple(model.model_fields))}")
    return "".join(parts)


def env_example() -> str:
    """.env.example: defaults as they are; settings without a default with an example, commented out."""
    lines = ["# Every setting of Posthaste. Copy to .env and change there; the environment wins over the file.", ""]
    for title, names in SECTIONS.items():
        lines.append(f"# -- {title} --")
        for name in names:
            field = Settings.model_fields[name]
            lines += textwrap.wrap(field.description or "", 128, initial_indent="# ", subsequent_indent="# ")
            value = _text(field.default) if _has_default(field) else None
            lines.append(f"{PREFIX}{name.upper()}={value}" if value else f"# {PREFIX}{name.upper()}={_text(_example(field))}")
        lines.append("")
    return "\n".join(lines) + "\n" + COMPOSE


def _table(model: type[BaseModel], names: tuple[str, ...], prefix: str = "") -> str:
    rows = ["| setting | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name in names:
        field = model.model_fields[name]
        label = prefix + name.upper() if prefix else name
        default = f"`{_text(field.default)}`" if _has_default(field) else "required" if field.is_required() else "none"
        rows.append(f"| `{label}` | {default} | {_allowed(field)} | {' '.join((field.description or '').split())} |")
    return "\n".join(rows) + "\n"


def _allowed(field: FieldInfo) -> str:
    bounds = {type(item).__name__: item for item in field.metadata}
    low = next((f"{sign} {_number(getattr(bounds[kind], attribute))}" for kind, attribute, sign in
                (("Ge", "ge", "≥"), ("Gt", "gt", ">")) if kind in bounds), "")  # fmt: skip
    high = f"≤ {_number(bounds['Le'].le)}" if "Le" in bounds else ""
    return ", ".join(filter(None, [low, high]))


def _has_default(field: FieldInfo) -> bool:
    """Whether the default is a value that an operator could write; None and empty collections are not."""
    return field.default is not PydanticUndefined and field.default not in (None, [], {}) and _text(field.default) != "{}"


def _example(field: FieldInfo) -> Any:
    return (field.examples or [""])[0]


def _text(value: Any) -> str:
    plain = value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else to_jsonable_python(value)
    return plain if isinstance(plain, str) else json.dumps(_number(plain), ensure_ascii=False)


def _number(value: Any) -> Any:
    """Whole floats as integers, at any depth."""
    if isinstance(value, dict):
        return {key: _number(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_number(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
