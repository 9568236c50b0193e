"""The README's shell commands, run as they stand. `python3 -m tests.e2e.quick_start` runs them beside `make run`.

Standard library only: a bare machine has no .venv yet.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = ("sh", "bash")
READY = "Ctrl-C ends it"


def commands() -> str:
    """The shell blocks of the README, in order, as one script."""
    return "".join(re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE))


def promises(script: str) -> list[str]:
    """The output that the comments of a script promise, in order. `…` stands for any output."""
    return [part for comment in re.findall(r" # (.+)$", script, re.MULTILINE) for part in comment.split(" … ")]


def run_beside(service: list[str], script: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Start the service, run the script in each shell, and end the service. Raises AssertionError for a broken promise."""
    process = subprocess.Popen(service, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            if READY in line:
                break
        else:
            raise AssertionError(f"`{' '.join(service)}` ended before it was ready")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        for shell in SHELLS:
            _run(shell, script, folder, environment)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        process.wait(90)


def _run(shell: str, script: str, folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [shell, "-c", script], cwd=folder, env=environment, timeout=180, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    print(f"--- {shell}\n{done.stdout}", flush=True)
    position = 0
    for promise in promises(script):
        found = re.compile(rf"(?<!\w){re.escape(promise)}(?!\w)").search(done.stdout, position)
        assert found, f"{shell}: the README promises {promise!r} next, after:\n{done.stdout[:position]}"
        position = found.end()


if __name__ == "__main__":
    run_beside(["make", "run"], commands(), ROOT, os.environ)
    print(f"The README's commands ran as they stand, in {' and '.join(SHELLS)}.", file=sys.stderr)
