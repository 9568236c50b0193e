"""Each alert fires for its cause, and no other does. promtool evaluates the rules on generated series."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from dev.tools import PROMTOOL, require
from infra.monitoring import metrics
from service.ledger_metrics import families

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/monitoring"
RULES = {rule["alert"]: rule for rule in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]}

MINUTES, STEP = 30, 15
STEPS = MINUTES * 60 // STEP
HTTP, JOBS = "posthaste_http_request_duration_seconds", "posthaste_job_transitions_total"
UP = 'posthaste_dependency_up{dependency="%s",job="posthaste-api"}'
OTHER_UP = 'posthaste_dependency_up{dependency="%s",job="posthaste-worker"}'
API, WORKER = 'up{job="posthaste-api",instance="api:9006"}', 'up{job="posthaste-worker",instance="consumer-1:9010"}'
RELAY = 'posthaste_relay_active{instance="relay:9010"}'
CLOSED = 'posthaste_breaker_state{provider="sandbox",state="closed"}'
OLDEST = 'posthaste_queue_oldest_seconds{queue="messages.sandbox.normal",provider="sandbox"}'
PAUSED = 'posthaste_provider_paused{provider="sandbox"}'
SENT, FAILED = (f'{JOBS}{{kind="message",provider="sandbox",status="{status}"}}' for status in ("sent", "failed"))
ACCEPTED = f'{HTTP}_count{{route="/messages",status="2xx"}}'
ERRORS = f'{HTTP}_count{{route="/messages",status="5xx"}}'
UNREADY = f'{HTTP}_count{{route="/health/ready",status="5xx"}}'
UNCONFIRMED = 'posthaste_published_messages_total{publisher="relay",result="unconfirmed"}'
LOST = 'posthaste_leases_lost_total{kind="message",provider="sandbox"}'
GONE = "_"  # no sample


def always(value: float | str) -> str:
    return f"{value}x{STEPS}"


def growing(by: float) -> str:
    return f"0+{by}x{STEPS}"


def slow(name: str, labels: str, seconds: str) -> dict[str, str]:
    """A histogram all of whose observations lie between 1 ms and `seconds`, far from its lower bounds."""
    bounds = {"0.001": 0.0, seconds: 10.0, "+Inf": 10.0}
    return {f'{name}_bucket{{{labels},le="{bound}"}}': growing(by) for bound, by in bounds.items()}


HEALTHY = {
    **{pattern % service: always(1) for pattern in (UP, OTHER_UP) for service in ("postgres", "rabbitmq", "redis")},
    API: always(1),
    WORKER: always(1),
    RELAY: always(1),
    CLOSED: always(1),
    OLDEST: always(2),
    SENT: growing(100),
    FAILED: growing(1),
    ACCEPTED: growing(100),
    UNREADY: growing(100),
    UNCONFIRMED: always(3),
    LOST: f"0x20 5x{STEPS}",  # one dead worker
    **slow(HTTP, 'method="POST",route="/messages",status="2xx"', "0.01"),
    **slow("posthaste_event_loop_lag_seconds", 'job="posthaste-api",instance="api:9006"', "0.01"),
}
DOWN = {f"Posthaste{title}Down": title.lower() for title in ("Postgres", "RabbitMQ", "Redis")}

CASES: list[tuple[str, dict[str, str], set[str]]] = [
    ("healthy", {}, set()),
    *((f"{name} for the API", {UP % name: always(0)}, {alert}) for alert, name in DOWN.items()),
    *((f"{name} for a worker", {OTHER_UP % name: always(0)}, {alert}) for alert, name in DOWN.items()),
    (
        "Postgres with its consequences",
        {UP % "postgres": always(0), ERRORS: growing(90), RELAY: always(0), OLDEST: always(900)},
        {"PosthastePostgresDown"},
    ),
    (
        "RabbitMQ with its consequences",
        {UP % "rabbitmq": always(0), UNCONFIRMED: growing(5), RELAY: always(0), OLDEST: always(900)},
        {"PosthasteRabbitMQDown"},
    ),
    ("no API", {API: always(0)}, {"PosthasteApiDown"}),
    ("no API is listed", {API: always(GONE)}, {"PosthasteApiDown"}),
    ("one of two APIs", {'up{job="posthaste-api",instance="api:9007"}': always(0)}, set()),
    ("a worker", {WORKER: always(0)}, {"PosthasteWorkerDown"}),
    ("the relay stands by", {RELAY: always(0)}, {"PosthasteRelayLost"}),
    ("the relay is gone", {RELAY: always(GONE)}, {"PosthasteRelayLost"}),
    ("a second relay stands by", {'posthaste_relay_active{instance="relay-2:9010"}': always(0)}, set()),
    ("an open breaker", {CLOSED: always(0), OLDEST: always(900)}, {"PosthasteProviderUnreachable"}),
    ("an old queue", {OLDEST: always(900)}, {"PosthasteQueueOld"}),
    ("an old queue of a paused provider", {OLDEST: always(900), PAUSED: always(1)}, set()),
    (
        "an old queue of reports",
        {'posthaste_queue_oldest_seconds{queue="reports",provider=""}': always(900)},
        {"PosthasteQueueOld"},
    ),
    ("failing jobs", {FAILED: growing(20)}, {"PosthasteJobsFail"}),
    ("three failures of three", {SENT: always(0), FAILED: f"0x80 3x{STEPS}"}, set()),
    ("messages without a confirm", {UNCONFIRMED: growing(5)}, {"PosthastePublishingFails"}),
    ("errors", {ERRORS: growing(10)}, {"PosthasteErrors"}),
    ("slow acceptance", slow(HTTP, 'method="POST",route="/messages",status="2xx"', "2.5"), {"PosthasteAcceptanceSlow"}),
    (
        "a blocked event loop",
        slow("posthaste_event_loop_lag_seconds", 'job="posthaste-api",instance="api:9006"', "1.0"),
        {"PosthasteEventLoopBlocked"},
    ),
    ("leases lost for half an hour", {LOST: growing(1)}, {"PosthasteLeasesLost"}),
]


def _promtool(*arguments: str) -> None:
    done = subprocess.run([require(PROMTOOL), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _case(name: str, changed: dict[str, str], firing: set[str]) -> dict[str, Any]:
    series = {**HEALTHY, **changed}
    if any("_bucket" in each for each in changed):  # the slow histogram replaces the quick one
        family = next(iter(changed)).partition("_bucket")[0]
        series = {each: values for each, values in series.items() if not each.startswith(family + "_bucket")} | changed
    samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(firing)]
    expression = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "name": name,
        "interval": f"{STEP}s",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": "25m", "exp_samples": samples}],
    }


def test_each_alert_fires_for_its_cause_and_no_other_does(tmp_path: Path) -> None:
    file = tmp_path / "cases.yml"
    rules = str(FOLDER / "alerts.yml")
    tests = [_case(*case) for case in CASES]
    file.write_text(yaml.safe_dump({"rule_files": [rules], "evaluation_interval": f"{STEP}s", "tests": tests}))
    _promtool("test", "rules", str(file))


def test_every_alert_has_a_case() -> None:
    assert set().union(*(firing for _, _, firing in CASES)) == set(RULES)


def test_a_wrong_expectation_fails(tmp_path: Path) -> None:
    file = tmp_path / "cases.yml"
    case = _case("a worker", {WORKER: always(0)}, {"PosthasteApiDown"})
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": [case]}))
    with pytest.raises(AssertionError, match="PosthasteWorkerDown"):
        _promtool("test", "rules", str(file))


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    _promtool("check", "rules", str(FOLDER / "alerts.yml"))
    _promtool("check", "config", str(FOLDER / "prometheus.yml"))


def test_the_rules_name_existing_metrics() -> None:
    for name, rule in RULES.items():
        if name not in ("PosthasteApiDown", "PosthasteWorkerDown"):  # `up` is Prometheus' own
            _check_names(name, rule["expr"])


def _check_names(subject: str, expression: str) -> None:
    own = {family.name for metric in metrics.OBJECTS for family in metric.describe()}
    own |= {f"posthaste_{name}" for name in families()}
    names = re.findall(r"posthaste_\w+", expression)
    assert names
    for name in names:
        assert re.sub(r"_(total|count|bucket|sum)$", "", name) in own or name in own, (subject, name)


def test_the_dashboard_shows_existing_metrics() -> None:
    panels = json.loads((FOLDER / "grafana/dashboards/posthaste.json").read_text())["panels"]
    assert len(panels) == len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels})
    for panel in panels:
        for target in panel["targets"]:
            _check_names(panel["title"], target["expr"])


@pytest.mark.parametrize("name", RULES)
def test_every_alert_leads_to_its_section(name: str) -> None:
    page, _, anchor = RULES[name]["annotations"]["runbook"].partition("#")
    text = (ROOT / page).read_text("utf-8")
    heading = next(each for each in re.findall(r"^### (.+)$", text, re.MULTILINE) if each.lower().replace(" ", "-") == anchor)
    section = text.partition(f"### {heading}\n")[2].partition("\n##")[0]
    assert f"`{name}`" in section
