"""Files that say the same as the code: held together here."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from consumers.process import BEAT_SECONDS, CALL_SECONDS
from infra.rabbitmq.topology import definitions, describe
from infra.redis.connection import rules
from service.settings import Settings

ROOT = Path(__file__).parents[2]


def test_definitions_are_those_of_the_topology() -> None:
    written = json.loads((ROOT / "infra/rabbitmq/definitions.json").read_text())
    assert written == definitions(describe("posthaste", ["sandbox"])), "run `make definitions`"


def test_compose_and_dockerfile_stay_readable_and_need_no_frontend() -> None:
    for name in ("docker-compose.yml", "Dockerfile"):
        text = (ROOT / name).read_text()
        assert len(text.splitlines()) < 180
        assert "# syntax" not in text


def test_compose_publishes_on_loopback_only_and_stops_late_enough() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    published = re.findall(r'"([^\s/]+:\d+)"', text.replace("${", "").replace(":-", "-"))
    assert published and all(port.startswith("127.0.0.1:") for port in published)
    grace = Settings.model_fields["shutdown_grace_seconds"].default + Settings.model_fields["lease_margin_seconds"].default
    ours = re.search(r"stop_grace_period: (\d+)s", text)
    assert ours and int(ours[1]) > grace


def test_compose_runs_under_no_administrator() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    (everybodys,) = re.findall(r"^x-posthaste:.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert re.findall(r"://(\w+):\$", everybodys) == ["posthaste"] * 3
    (user,) = re.findall(r'">\$\{REDIS_PASSWORD\}",\s+(.*?),\s+\]', text, re.DOTALL)
    assert json.loads(f"[{user}]") == rules("posthaste")
    assert f"user posthaste on >PASSWORD {' '.join(rules('posthaste'))}\n" in (ROOT / "docs/operations.md").read_text()
    variables = set(re.findall(r"\$\{([A-Z_]+PASSWORD)", text))
    assert variables == set(re.findall(r"^(\w+PASSWORD)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def _services(file: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / file).read_text())["services"])


@pytest.mark.parametrize("file", ["docker-compose.yml", "dev/docker-compose.override.yml"])
def test_compose_files_have_no_obsolete_version(file: str) -> None:
    assert "version" not in yaml.safe_load((ROOT / file).read_text())


def test_compose_names_tested_images_and_the_override_none() -> None:
    services = _services("docker-compose.yml").values()
    images = {service["image"] for service in services if "profiles" not in service} - {"posthaste:local"}
    assert images == {"postgres:17", "rabbitmq:4.3-management", "redis:8.0"}
    pinned = re.compile(r"[\w/]+:v?\d+\.\d+\.\d+")
    others = [service["image"] for service in services if "profiles" in service and service["image"] != "posthaste:local"]
    assert all(map(pinned.fullmatch, others))
    override = _services("dev/docker-compose.override.yml")
    assert override.keys() == {"postgres", "rabbitmq", "redis"}
    assert not any(service.keys() & {"image", "ports"} for service in override.values())


def test_compose_waits_for_each_container_to_be_healthy_or_to_have_ended_well() -> None:
    services = _services("docker-compose.yml")
    ending = {name for name, service in services.items() if service.get("restart") in ("no", "on-failure")}
    completed = {
        name
        for service in services.values()
        for name, needed in (service.get("depends_on") or {}).items()
        if needed["condition"] == "service_completed_successfully"
    }
    assert ending == completed == {"migrate", "rabbitmq-user"}
    healthy = {name for name, service in services.items() if "healthcheck" in service}
    assert healthy == set(services) - ending - {"sandbox"}
    assert set(services["api"]["depends_on"]) == {"migrate"}, "accepting needs no broker"


def test_compose_looks_at_the_heartbeat_that_workers_and_the_relay_leave() -> None:
    services = _services("docker-compose.yml")
    watched = {name: service for name, service in services.items() if "find" in str(service.get("healthcheck"))}
    assert set(watched) == {"consumer-1", "consumer-2", "caller", "reporter", "relay"}
    for service in watched.values():
        file, seconds = re.findall(r"find (\S+) -newermt '(\d+) seconds ago'", service["healthcheck"]["test"][1])[0]
        assert service["environment"]["POSTHASTE_HEARTBEAT_FILE"] == file
        assert int(seconds) > BEAT_SECONDS + CALL_SECONDS


def test_every_run_time_dependency_has_its_reason_and_is_locked() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    names = [re.split(r"[\[>=]", line)[0] for line in tomllib.loads(text)["project"]["dependencies"]]
    locked = (ROOT / "requirements.lock").read_text()
    for name in names:
        assert re.search(rf'"{name}[^"]*",\s+# \S+', text), f"{name} has no reason"
        assert re.search(rf"^{name}(\[\w+\])?==", locked, re.MULTILINE), f"{name} is not locked: run `make lock`"


def test_lock_files_name_no_index() -> None:
    for file in ROOT.glob("*.lock"):
        assert "://" not in file.read_text()
