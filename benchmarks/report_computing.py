"""2.0's computing of a report, against the floor, 1.0's loop and SQL: whole-process figures, medians.

POSTS (1,000,000) is the number of posts, REPEATS (5) that of the runs of each. With LARGE_POSTS, such as 10,000,000, the same
is measured on a larger table, too: for memory and time by size. LANES (2) is the number of processes.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import psycopg2

from dev.databases import create_database, drop_database
from infra.postgres import migration
from service.post_recipe import Recipe
from service.seeding import seed
from service.settings import Settings

DATABASE = "posthaste_computing"
USERS = 1000
MODES = ("floor", "lanes", "loop", "sql")
NAMES = {"floor": "floor: COPY drained", "lanes": "2.0", "loop": "1.0, in the request", "sql": "SQL, GROUP BY"}
MACHINES = (1, 2, 4, 8)


def posts_of(name: str, default: int) -> int:
    """A number from the environment."""
    return int(os.environ.get(name, str(default)))


@dataclass(frozen=True)
class Measured:
    """The median seconds of whole processes by mode, and the results of the last ones."""

    posts: int
    seconds: dict[str, float]
    results: dict[str, dict[str, Any]]
    warm: float


async def computing(settings: Settings) -> None:
    """Measure, compare the results, and project."""
    sizes = [size for size in (posts_of("POSTS", 1_000_000), posts_of("LARGE_POSTS", 0)) if size]
    measured = [await _measured(settings, size) for size in sizes]
    if len(measured) > 1:
        small, large = measured
        factor = large.posts / small.posts
        print(f"  {factor:g} times the posts take 2.0 {large.warm / small.warm:.1f} times as long")
    _project(measured[-1])


async def _measured(settings: Settings, posts: int) -> Measured:
    url = create_database(settings.owner_url, DATABASE)
    migration.migrate(url, "posthaste-computing")
    recipe = Recipe(posts, USERS, 10, 100, 1, time.time_ns() // 1000)
    await asyncio.to_thread(seed, url, recipe, os.cpu_count() or 1)
    await asyncio.to_thread(vacuum, url)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    results: dict[str, dict[str, Any]] = {"wc": (await _run("wc", url))[1]}
    await _run("floor", url)  # fills the caches
    warm = []
    for _ in range(posts_of("REPEATS", 5)):
        for mode in MODES:
            taken, results[mode] = await _run(mode, url)
            seconds[mode].append(taken)
        warm.append(float(results["lanes"]["warm"]))
        await asyncio.to_thread(_forget, url)
    drop_database(settings.owner_url, DATABASE)
    measured = Measured(
        posts, {mode: statistics.median(each) for mode, each in seconds.items()}, results, statistics.median(warm)
    )
    _show(measured, seconds)
    return measured


async def _run(mode: str, url: str) -> tuple[float, dict[str, Any]]:
    """One process, from its start to its end. `lanes` computes two reports; its second is not part of the time."""
    started = time.perf_counter()
    command = (sys.executable, "-m", "benchmarks.report_process", mode, url)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    taken = time.perf_counter() - started
    if process.returncode != 0:
        raise RuntimeError(f"{mode} failed")
    result: dict[str, Any] = json.loads(output)
    return taken - float(result.get("warm", 0)), result


def vacuum(url: str) -> None:
    """Do now what Postgres does in time: the first reader writes the hint bits of new rows, a checkpoint writes their pages."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE posts")
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        if cursor.fetchone() == (True,):
            cursor.execute("CHECKPOINT")
    connection.close()


def _forget(url: str) -> None:
    """Delete the results, so that no report shares one."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM jobs")


def _show(measured: Measured, seconds: dict[str, list[float]]) -> None:
    runs = len(seconds["floor"])
    print(f"{measured.posts:,} posts of 55 words, {USERS:,} users; medians of {runs} whole processes, each from start to end")
    base = measured.seconds["floor"]
    for mode in MODES:
        taken, peaks = measured.seconds[mode], measured.results[mode]["peak_mb"]
        memory = ", ".join(f"{name} {peak:.0f} MB" for name, peak in peaks.items())
        spread = f"{min(seconds[mode]):.2f} to {max(seconds[mode]):.2f}"
        print(f"  {NAMES[mode]:<20} {taken:6.2f} s ({spread}), {taken / base:.2f} times the floor; peak: {memory}")
    print(f"  2.0 in a worker that runs already: {measured.warm:.2f} s, {measured.warm / base:.2f} times the floor")
    for mode in ("loop", "sql"):
        of_process, of_worker = (measured.seconds[mode] / each for each in (measured.seconds["lanes"], measured.warm))
        print(f"  {NAMES[mode]} takes {of_process:.1f} times as long as 2.0, {of_worker:.1f} times as long as its worker")
    words = {mode: result["words"] for mode, result in measured.results.items() if "words" in result}
    digests = {measured.results[mode]["digest"] for mode in ("lanes", "loop", "sql")}
    verdict = "equal" if len(set(words.values())) == len(digests) == 1 else f"DIFFERENT: {words}"
    print(f"  words of each user by 2.0, 1.0 and SQL, and of all by wc -w: {verdict}")


def _project(measured: Measured) -> None:
    """By the cost of a post: N machines count N times as fast, up to what the server's processors hand over."""
    each, floor = measured.warm / measured.posts, measured.seconds["floor"] / measured.posts
    lanes = posts_of("LANES", 2)
    text = ", ".join(f"{count}: {each * 1e8 / 60 / count:.1f} min" for count in MACHINES)
    print(f"  100 million posts by {each * 1e6:.2f} µs a post, on machines with {lanes} lanes each: {text}")
    print(f"  Postgres hands over 100 million posts in {floor * 1e8 / 60:.1f} min a connection: the limit is its processors")
