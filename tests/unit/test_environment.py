"""`make setup` recognises unusable environments. A shell script plays Python, venv and pip."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ["Makefile", "dev/environment.sh", "requirements.lock", "requirements-dev.lock", "pyproject.toml"]
PYTHON = """\
#!/bin/sh
case "$2" in
venv)
    rm -rf "$4"; mkdir -p "$4/bin"
    cp "$0" "$4/bin/python"
    if [ "$PLAY" = without-venv ]; then exit 1; fi
    echo venv >>log ;;
pip)
    if [ "$PLAY" = hang ]; then echo hanging; exec sleep 60; fi
    if [ "$PLAY" = fail ]; then exit 7; fi
    case "$*" in
    *--editable*) printf '#!%s/bin/python\\n' "$(pwd -P)/.venv" >.venv/bin/posthaste ;;
    *) echo "pip $8" >>log ;;
    esac ;;
esac
"""
MADE = ["venv", "pip requirements.lock"]
REMADE = [*MADE, *MADE]


@dataclass
class Checkout:
    """A folder with the files that `make setup` needs."""

    folder: Path
    output: str = ""
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def make(self, target: str = "setup", play: str = "") -> int:
        done = subprocess.run(
            self._command(target),
            cwd=self.folder,
            env=_environment(play),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        self.output = done.stdout + done.stderr
        return done.returncode

    def start(self) -> "subprocess.Popen[bytes]":
        """Start make in a process group of its own, and wait until its pip hangs."""
        process = subprocess.Popen(
            self._command("setup"), cwd=self.folder, env=_environment("hang"), start_new_session=True, stdout=subprocess.PIPE
        )
        self.started.append(process)
        assert process.stdout and b"hanging\n" in iter(process.stdout.readline, b"")
        return process

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def _command(self, target: str) -> list[str]:
        return ["make", "--no-print-directory", f"PYTHON={self.folder / 'python'}", target]


def test_a_complete_environment_is_left_alone(checkout: Checkout) -> None:
    assert checkout.make() == 0
    assert checkout.make() == 0
    assert (checkout.log(), checkout.output) == (MADE, "")


def test_changed_dependencies_are_installed_into_the_environment(checkout: Checkout) -> None:
    checkout.make()
    stamp = (checkout.folder / ".venv/.run").stat().st_mtime
    os.utime(checkout.folder / "requirements.lock", (stamp + 1, stamp + 1))
    assert checkout.make() == 0
    assert checkout.log() == [*MADE, "pip requirements.lock"]


def _empty(venv: Path) -> None:
    venv.mkdir()


def _python_without_pip(venv: Path) -> None:
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to("/bin/true")


@pytest.mark.parametrize("leave", [_empty, _python_without_pip])
def test_a_half_made_environment_is_made_anew(checkout: Checkout, leave: Callable[[Path], None]) -> None:
    leave(checkout.folder / ".venv")
    assert checkout.make() == 0
    assert checkout.log() == MADE
    assert "an earlier set-up did not finish" in checkout.output


def test_set_up_succeeds_after_python3_venv_is_installed(checkout: Checkout) -> None:
    assert checkout.make(play="without-venv") != 0
    assert "apt-get install python3-venv" in checkout.output
    assert (checkout.folder / ".venv/bin/python").exists()
    assert checkout.make() == 0
    assert checkout.log() == MADE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("complete", [False, True])
def test_an_interrupted_installation_is_made_anew(checkout: Checkout, number: signal.Signals, complete: bool) -> None:
    if complete:  # the installation of changed dependencies is interrupted
        checkout.make()
        os.utime(checkout.folder / ".venv/.run", (0, 0))
    process = checkout.start()
    os.killpg(process.pid, number)
    assert process.wait(10) != 0
    before = checkout.log()
    assert checkout.make() == 0
    assert checkout.log() == [*before, *MADE]


@pytest.mark.parametrize("happen", [shutil.move, shutil.copytree])
def test_the_environment_of_another_folder_is_made_anew(checkout: Checkout, happen: Callable[[Path, Path], object]) -> None:
    checkout.make()
    former = checkout.folder
    checkout.folder = former.with_name("another")
    happen(former, checkout.folder)
    assert checkout.make() == 0
    assert checkout.log() == REMADE
    assert f"it belongs to {former}, and this folder is {checkout.folder}" in checkout.output


def test_an_environment_without_its_python_is_made_anew(checkout: Checkout) -> None:
    checkout.make()
    (checkout.folder / ".venv/bin/python").unlink()
    assert checkout.make() == 0
    assert checkout.log() == REMADE


def test_a_failed_installation_of_tools_keeps_the_environment(checkout: Checkout) -> None:
    checkout.make()
    assert checkout.make("dev", play="fail") != 0
    assert checkout.make() == 0
    assert checkout.log() == MADE
    assert checkout.make("dev") == 0
    assert checkout.log() == [*MADE, "pip requirements-dev.lock"]


def test_a_second_make_waits_for_the_first(checkout: Checkout) -> None:
    first = checkout.start()
    with subprocess.Popen(
        checkout._command("setup"), cwd=checkout.folder, env=_environment(""), stdout=subprocess.PIPE, text=True
    ) as second:
        assert second.stdout and "waiting for the set-up of another make" in second.stdout.readline()
        assert checkout.log() == ["venv"]
        os.killpg(first.pid, signal.SIGINT)
        assert second.wait(10) == 0
    assert checkout.log() == ["venv", *MADE]


def _environment(play: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PLAY": play}


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    folder = tmp_path.resolve() / "a checkout"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    checkout = Checkout(folder)
    yield checkout
    for process in checkout.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
