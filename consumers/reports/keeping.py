"""Starts the keepers of snapshots; see `keeper`."""

import asyncio
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from consumers.reports.keeper import Kept, Task
from infra.postgres.errors import Unavailable

START_SECONDS = 30.0
END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Keeper:
    """A keeper that has taken its snapshot."""

    process: "subprocess.Popen[str]"
    kept: Kept

    @property
    def snapshot_at(self) -> datetime:
        return datetime.fromisoformat(self.kept["snapshot_at"])

    async def end(self) -> None:
        """End the keeper, and with it the snapshot and the lock."""
        self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for a frozen Postgres
            self.process.kill()


@dataclass(eq=False)
class Keepers:
    """Starts keepers for `url`, each for at most `cap_seconds`.

    With `spare`, one process waits for the next report, without a connection: its start takes longer than a small report.
    """

    url: str = field(repr=False)
    cap_seconds: float
    spare: bool = False
    _waiting: "subprocess.Popen[str] | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.prepare()

    def prepare(self) -> None:
        """Start the spare process unless there is one."""
        if self.spare and self._waiting is None:
            with suppress(OSError):  # such as too many processes: the next report tries again
                self._waiting = _started()

    def close(self) -> None:
        """End the spare process."""
        process, self._waiting = self._waiting, None
        if process is not None:
            process.kill()
            with process:  # closes its pipes, and waits
                pass

    def _taken(self) -> "subprocess.Popen[str]":
        process, self._waiting = self._waiting, None
        return process if process is not None and process.poll() is None else _started()

    async def start(self, job_id: UUID) -> Keeper:
        """Start a keeper. It outlives this process.

        Raises:
            PostgresError: it has no snapshot; with Postgres' SQLSTATE if there is one.
        """
        task = Task(url=self.url, job_id=str(job_id), cap_seconds=self.cap_seconds)
        process = self._taken()
        try:
            async with asyncio.timeout(START_SECONDS):
                answer = await asyncio.to_thread(_told, process, task)
        except BaseException as error:
            process.kill()
            process.wait()
            if isinstance(error, TimeoutError):
                raise Unavailable("the keeper of the snapshot did not answer in time") from error
            raise
        if "snapshot" in answer:
            return Keeper(process, answer)
        process.wait()
        raise Unavailable(answer.get("error", "the keeper of the snapshot died"), answer.get("sqlstate"))


def _started() -> "subprocess.Popen[str]":
    """No signal of a terminal or of supervisord reaches a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "consumers.reports.keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )


def _told(process: "subprocess.Popen[str]", task: Task) -> Kept:
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
    answer: Kept = json.loads(line or "{}")
    return answer
