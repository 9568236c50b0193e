"""The systemd units match compose, the command line and the settings. `make units` has systemd-analyze verify them."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from cli.__main__ import app
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/systemd"
COMMON = FOLDER / "posthaste-.service.d/10-common.conf"
SERVICES = sorted(FOLDER.glob("*.service"), key=lambda path: path.name)
MIGRATE = FOLDER / "posthaste-migrate.service"
COMMAND = "/opt/posthaste/venv/bin/posthaste "
# The operator creates RabbitMQ's user once; the sandbox plays a provider.
WITHOUT_UNIT = {"rabbitmq-user", "sandbox --host 0.0.0.0"}

Unit = dict[tuple[str, str], list[str]]


def _read(*files: Path) -> Unit:
    """The values by section and key, in the order in which systemd reads them."""
    values: Unit = defaultdict(list)
    section = ""
    for line in (line for file in files for line in file.read_text("utf-8").splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values[section, key].append(value)
    return values


def _service(path: Path) -> Unit:
    """A service with the settings that it shares. systemd reads a drop-in after its unit."""
    return _read(path, COMMON)


def _only(unit: Unit, section: str, key: str) -> str:
    (value,) = unit[section, key]
    return value


def _arguments(path: Path) -> str:
    line = _only(_service(path), "Service", "ExecStart")
    assert line.startswith(COMMAND)
    return line.removeprefix(COMMAND)


def _environment(unit: Unit) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit["Service", "Environment"])


def test_every_process_of_compose_has_a_unit_and_the_units_have_no_other() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    ours = {" ".join(each["command"]) for each in services if each["image"] == "posthaste:local" and "profiles" not in each}
    assert {_arguments(path) for path in SERVICES} == ours - WITHOUT_UNIT
    assert ours > WITHOUT_UNIT


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_the_command_of_a_unit_is_one_that_the_command_line_takes(path: Path) -> None:
    name, *arguments = _arguments(path).split()
    app.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_systemd_waits_longer_than_a_process_takes_to_stop(path: Path) -> None:
    unit, fields = _service(path), Settings.model_fields
    seconds = int(_only(unit, "Service", "TimeoutStopSec").removesuffix("s"))
    assert seconds > fields["shutdown_grace_seconds"].default + fields["lease_margin_seconds"].default
    assert _only(unit, "Service", "KillSignal") == "SIGTERM"


def test_the_keeper_of_a_snapshot_outlives_the_worker_of_reports() -> None:
    """systemd reads the drop-ins of a unit by their names, so this one comes after the common one."""
    (own,) = (FOLDER / "posthaste-reporter.service.d").iterdir()
    assert own.name > COMMON.name
    assert _read(FOLDER / "posthaste-reporter.service", COMMON, own)["Service", "KillMode"][-1] == "process"


@pytest.mark.parametrize("path", [path for path in SERVICES if path != MIGRATE], ids=lambda path: path.stem)
def test_a_process_starts_after_the_migration_and_restarts_for_ever(path: Path) -> None:
    unit = _service(path)
    assert "posthaste-migrate.service" in " ".join(unit["Unit", "After"]).split()
    assert _only(unit, "Service", "Restart") == "always"
    assert _only(unit, "Unit", "StartLimitIntervalSec") == "0"


def test_the_migration_runs_once_and_is_repeated_until_it_succeeds() -> None:
    unit = _service(MIGRATE)
    assert _only(unit, "Service", "Type") == "oneshot"
    assert _only(unit, "Service", "RemainAfterExit") == "yes"
    assert _only(unit, "Service", "Restart") == "on-failure"


def test_only_the_migration_reads_the_url_of_the_owner() -> None:
    file = "/etc/posthaste/migration.env"
    readers = {path for path in SERVICES if file in _service(path)["Service", "EnvironmentFile"]}
    assert readers == {MIGRATE}
    assert _only(_service(MIGRATE), "Unit", "ConditionPathExists") == file
    assert all("/etc/posthaste/posthaste.env" in _service(path)["Service", "EnvironmentFile"] for path in SERVICES)


def test_workers_and_the_relay_leave_a_heartbeat_in_a_folder_of_their_own() -> None:
    beating = {path for path in SERVICES if f"{PREFIX}HEARTBEAT_FILE" in _environment(_service(path))}
    assert {_arguments(path).split()[0] for path in beating} == {"consume", "relay"}
    assert {path for path in SERVICES if _arguments(path).split()[0] in ("consume", "relay")} == beating
    for unit in map(_service, beating):
        assert _only(unit, "Service", "RuntimeDirectory") == "%N"
        assert _environment(unit)[f"{PREFIX}HEARTBEAT_FILE"] == "%t/%N/heartbeat"


def test_the_units_set_nothing_that_is_no_setting() -> None:
    named = {name for path in SERVICES for name in _environment(_service(path))}
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert named - {"PYTHONSAFEPATH"} <= known


def test_the_target_enables_every_unit_and_groups_them() -> None:
    target = _read(FOLDER / "posthaste.target")
    enabled = {re.sub(r"@\d+", "@", name) for name in " ".join(target["Install", "Also"]).split()}
    assert enabled == {path.name for path in SERVICES}
    for unit in map(_service, SERVICES):
        assert _only(unit, "Install", "WantedBy") == _only(unit, "Unit", "PartOf") == "posthaste.target"


def test_no_unit_runs_as_root_or_gains_privileges() -> None:
    for unit in map(_service, SERVICES):
        assert _only(unit, "Service", "User") == "posthaste"
        assert _only(unit, "Service", "CapabilityBoundingSet") == ""
        assert _only(unit, "Service", "NoNewPrivileges") == "yes"
        assert _only(unit, "Service", "ProtectSystem") == "strict"


def test_the_operations_page_names_the_units_and_no_other() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    (section,) = re.findall(r"^## Production with systemd$.*?(?=^## )", page, re.MULTILINE | re.DOTALL)
    named = re.findall(r"`(posthaste(?:-\w+)?@?(?:\.service|\.target))`", section)
    assert set(named) == {path.name for path in FOLDER.glob("posthaste*.*") if path.is_file()}
