"""The settings that `posthaste up` completes for one folder: one run at a time, and nothing of a killed one stays."""

import json
import os
from pathlib import Path

import pytest

from cli.local_settings import FOLDER, forget_killed_runs, recorded_run, started
from cli.processes import CannotStart
from service.settings import SANDBOX_FILE


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir()
    Path(SANDBOX_FILE).write_text("POSTHASTE_CALLBACK_SECRETS=[]\n")


def _record(pid: int, ticks: int | None) -> Path:
    file = FOLDER / f"up-{pid}.json"
    file.write_text(json.dumps({"pid": pid, "started": ticks}))
    return file


def test_a_run_beside_another_one_is_refused_and_leaves_its_settings() -> None:
    other = os.getppid()
    record = _record(other, started(other))
    with pytest.raises(CannotStart, match=f"process {other} .*make stop"), recorded_run():
        pass
    assert record.exists() and Path(SANDBOX_FILE).exists()


def test_a_killed_run_leaves_nothing() -> None:
    record = _record(os.getppid(), 1)  # the pid belongs to another process now
    assert forget_killed_runs() is None
    assert not record.exists() and not Path(SANDBOX_FILE).exists()


def test_a_run_is_recorded_while_it_lasts() -> None:
    with recorded_run():
        assert json.loads((FOLDER / f"up-{os.getpid()}.json").read_text())["started"] == started(os.getpid())
    assert not list(FOLDER.glob("up-*.json"))
