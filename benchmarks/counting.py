"""Ways to count the words of posts by user in a client: the seconds of its processor, and whether the counts are right.

POSTS (200,000) is the number of posts. Polars and ADBC are compared if they are installed: `.venv/bin/pip install polars
adbc-driver-postgresql`.
"""

import asyncio
import importlib.util
import io
import os
import time
from collections import Counter as Counts
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import psycopg2

from benchmarks.report_computing import posts_of, vacuum
from benchmarks.report_process import Nothing
from consumers.reports.counting import Counter
from consumers.reports.partition import CHUNK_BYTES, Chunks
from consumers.reports.sums import Sums
from dev.databases import create_database, drop_database
from infra.postgres import migration
from jobs.words import total_words
from service.post_recipe import Recipe
from service.seeding import seed
from service.settings import Settings

DATABASE = "posthaste_counting"
SELECT = "SELECT user_id, context FROM posts"
BINARY = "(FORMAT binary)"
# `str.split`'s white space, for regular expressions of Rust and RE2.
NOT_WHITE = r"[^\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
ODD = ["", " \n", "a\u2003b\u3000c \\ d\\n", "x\x1cy\x85z", "😀 \u200b é"]  # texts on which ways differ

Totals = dict[int, int]


async def ways_to_count(settings: Settings) -> None:
    """Count by each way, alone. The right counts are those of `str.split`."""
    url, posts = create_database(settings.owner_url, DATABASE), posts_of("POSTS", 200_000)
    try:
        migration.migrate(url, "posthaste-counting")
        await asyncio.to_thread(seed, url, Recipe(posts, 1000, 10, 100, 1, time.time_ns() // 1000), os.cpu_count() or 1)
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            for text in ODD:
                cursor.execute("INSERT INTO posts (user_id, context, created_at) VALUES (-1, %s, now())", (text,))
        vacuum(url)
        right = _loop(url)
        print(f"{posts:,} posts of 55 words, counted in this process by one thread or more")
        for name, (needed, count) in WAYS.items():
            if all(importlib.util.find_spec(package) for package in needed):
                _measure(name, partial(count, url), right, posts)
            else:
                print(f"  {name}: not installed")
    finally:
        drop_database(settings.owner_url, DATABASE)


def _measure(name: str, count: Callable[[], Totals | None], right: Totals, posts: int) -> None:
    count()  # imports, and fills the caches
    started, processor = time.perf_counter(), time.process_time()
    totals = count()
    processor, taken = time.process_time() - processor, time.perf_counter() - started
    verdict = "not counted" if totals is None else _verdict(totals, right)
    million = 1e6 / posts
    print(f"  {name:<34} {processor * million:5.2f} s of processor, {taken * million:5.2f} s in all a million posts; {verdict}")


def _verdict(totals: Totals, right: Totals) -> str:
    if {**totals, -1: 0} != {**right, -1: 0}:
        return "WRONG"
    return "right" if totals == right else "wrong on odd texts"


def _loop(url: str) -> Totals:
    with closing(psycopg2.connect(url)) as connection, connection.cursor("posts") as cursor:
        cursor.itersize = 2000
        cursor.execute(SELECT)
        return total_words(cursor)


def _copy(url: str, file: Any, options: str = "") -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY ({SELECT}) TO STDOUT {options}", file)


def _drained(url: str, options: str) -> None:
    _copy(url, io.BufferedWriter(Nothing(), CHUNK_BYTES), options)


def _numpy(url: str) -> Totals:
    sums = Sums()
    counter = Counter(sums.add)
    buffer = io.BufferedWriter(Chunks(counter), CHUNK_BYTES)
    _copy(url, buffer, BINARY)
    buffer.flush()
    counter.finish()
    users, words = sums.result()
    return dict(zip(users.tolist(), words.tolist(), strict=True))


def _pyarrow(url: str) -> Totals:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pc_csv

    file = io.BytesIO()
    _copy(url, file, "(FORMAT csv)")
    file.seek(0)
    table = pc_csv.read_csv(
        file,
        pc_csv.ReadOptions(column_names=["user_id", "context"]),
        pc_csv.ParseOptions(newlines_in_values=True),
        pc_csv.ConvertOptions(column_types={"user_id": pa.int32(), "context": pa.string()}, strings_can_be_null=False),
    )
    words = pc.count_substring_regex(table["context"], NOT_WHITE)
    found = pa.table({"user_id": table["user_id"], "words": words}).group_by("user_id").aggregate([("words", "sum")])
    return dict(zip(found["user_id"].to_pylist(), found["words_sum"].to_pylist(), strict=True))


def _polars(url: str) -> Totals:
    import polars as pl

    frame = pl.read_database_uri(SELECT, url, engine="adbc")
    found = (
        frame.select("user_id", words=pl.col("context").str.count_matches(NOT_WHITE))
        .group_by("user_id")
        .agg(pl.col("words").cast(pl.Int64).sum())
    )
    return dict(Counts(dict(found.iter_rows())))


WAYS: dict[str, tuple[tuple[str, ...], Callable[[str], Totals | None]]] = {
    "COPY text, drained": ((), lambda url: _drained(url, "")),
    "COPY binary, drained": ((), lambda url: _drained(url, BINARY)),
    "cursor, str.split": ((), _loop),
    "COPY binary, NumPy on its bytes": ((), _numpy),
    "COPY csv, PyArrow's regex": (("pyarrow",), _pyarrow),
    "ADBC, Polars' regex": (("polars", "adbc_driver_postgresql"), _polars),
}
