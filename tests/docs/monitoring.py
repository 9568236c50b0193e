"""The tables of docs/monitoring.md, from the metrics' objects and the alert rules."""

import re
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from prometheus_client import Histogram

from infra.monitoring import metrics
from service.ledger_metrics import families


def page(root: Path) -> str:
    """The page with its tables written anew."""
    text = (root / "docs/monitoring.md").read_text("utf-8")
    return _with(_with(text, "metrics", _metrics()), "alerts", _alerts(root))


def _with(text: str, name: str, table: str) -> str:
    return re.sub(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda found: found[1] + table + found[2], text, flags=re.DOTALL
    )


def _metrics() -> str:
    rows = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in metrics.OBJECTS:
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(_row(name, family.type, metric._labelnames, family.documentation))
    for name, gauge in families().items():
        rows.append(_row(f"posthaste_{name}", "gauge, relay", gauge._labelnames, gauge.documentation))
    assert any(isinstance(metric, Histogram) for metric in metrics.OBJECTS)
    return "\n".join(rows) + "\n"


def _row(name: str, type_: str, labels: "tuple[str, ...] | list[str]", meaning: str) -> str:
    return f"| `{name}` | {type_} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"


def _alerts(root: Path) -> str:
    rows = ["| alert | severity | after | runbook |", "| --- | --- | --- | --- |"]
    rules = yaml.safe_load((root / "infra/monitoring/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    for rule in rules:
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        link = f"[{anchor.replace('-', ' ')}]({Path(file).name}#{anchor})"
        rows.append(f"| `{rule['alert']}` | {rule['labels']['severity']} | {rule['for']} | {link} |")
    return "\n".join(rows) + "\n"
