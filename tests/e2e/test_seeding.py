"""`posthaste posts seed`: its arguments, Ctrl-C, a killed process, and the end of its parent."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dev.stack import as_variables, environment_without_settings
from infra.postgres.posts import Posts
from tests.support.processes import run_command
from tests.support.services import Services, sql
from tests.support.waiting import until

ENDLESS = 10_000_000  # a bound, if a test fails; no test waits for it
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'posthaste posts' AND datname = current_database()"


@pytest.fixture
def environment(services: Services, database: str) -> dict[str, str]:
    urls = {"database_url": database, "amqp_url": services.amqp, "redis_url": services.redis}
    return environment_without_settings() | as_variables(urls)


@dataclass
class Seeding:
    """A running command in a session of its own, as in a terminal."""

    process: "subprocess.Popen[bytes]"
    log: Path
    writers: list[psutil.Process]

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.process.wait, 60)

    def output(self) -> str:
        return self.log.read_text("utf-8")


@pytest.fixture
async def seeding(environment: dict[str, str], database: str, tmp_path: Path) -> AsyncIterator[Seeding]:
    """A running command that has written posts, with two processes."""
    log = tmp_path / "seed.log"
    arguments = ["posts", "seed", str(ENDLESS), "--words", "1:3", "--processes", "2"]
    command = [sys.executable, "-m", "cli", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True)
    try:
        await until(lambda: _posts(database), lambda count: count > 0)
        yield Seeding(process, log, psutil.Process(process.pid).children())
    finally:
        process.kill()
        process.wait()


def _posts(database: str) -> int:
    return Posts(database).stats().posts or 0


async def test_the_number_is_an_argument_or_an_option(environment: dict[str, str], database: str, tmp_path: Path) -> None:
    for arguments in (["7"], ["--count", "5"]):
        done = await run_command(["posts", "seed", *arguments], environment, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"posts: \d written in [\d.]+ s \(\d+/s\) by 1 process\n", done.stdout)
    assert _posts(database) == 12
    both = await run_command(["posts", "seed", "7", "--count", "7"], environment, tmp_path)
    assert both.returncode == 2 and "--count" in both.stderr


@pytest.mark.parametrize(
    "wrong", [["0"], ["--days", "0"], ["--skew", "normal"], ["--seed", "-1"], ["--processes", "0"], ["--words", "1:1000001"]]
)
async def test_a_wrong_option_is_named(environment: dict[str, str], database: str, tmp_path: Path, wrong: list[str]) -> None:
    done = await run_command(["posts", "seed", *wrong], environment, tmp_path)
    assert done.returncode == 2 and (wrong[0] if wrong[0].startswith("-") else "COUNT") in done.stderr
    assert _posts(database) == 0


async def test_ctrl_c_keeps_and_counts_the_written_posts(seeding: Seeding, database: str) -> None:
    os.killpg(seeding.process.pid, signal.SIGINT)
    assert await seeding.exit_code() == 1
    output = seeding.output()
    (written,) = re.findall(rf"^posthaste: interrupted; (\d+) of {ENDLESS} posts were written; `(?:.*)` deletes", output)
    assert int(written) == _posts(database) > 0
    assert "Traceback" not in output


async def test_a_killed_process_ends_the_command(seeding: Seeding) -> None:
    victim, other = seeding.writers
    victim.kill()
    assert await seeding.exit_code() == 1
    assert f"process {victim.pid} was killed by SIGKILL; at least " in seeding.output()
    assert not other.is_running()


async def test_without_their_parent_the_processes_end_after_their_chunks(seeding: Seeding, database: str) -> None:
    seeding.process.kill()
    await until(lambda: [writer for writer in seeding.writers if writer.is_running()], lambda running: running == [])
    await until(lambda: sql(database, SESSIONS), lambda sessions: sessions == [])
    assert _posts(database) % 5_000 == 0
    assert "Traceback" not in seeding.output()


async def test_stats_say_what_they_are(environment: dict[str, str], database: str, tmp_path: Path) -> None:
    sql(database, "INSERT INTO posts (user_id, context, created_at) VALUES (1, 'a b', '2026-01-02 03:04Z')")
    early = await run_command(["posts", "stats", "--estimate"], environment, tmp_path)
    assert (early.returncode, early.stdout) == (
        0,
        "posts: no estimate before the next ANALYZE; `posthaste posts stats` counts\n",
    )
    Posts(database).analyze()
    await until(Posts(database).estimate, lambda stats: stats.analyzed_at is not None)
    estimated = await run_command(["posts", "stats", "--estimate"], environment, tmp_path)
    assert estimated.stdout.startswith("posts: about 1 of about 1 users\n")
    assert re.search(r"^posts: estimated by Postgres; last ANALYZE: 20\S+ \S+Z$", estimated.stdout, re.MULTILINE)
    counted = await run_command(["posts", "stats"], environment, tmp_path)
    assert counted.stdout == "posts: 1 of 1 users\nposts: from 2026-01-02 to 2026-01-02\n"
