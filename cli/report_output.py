"""The result of `posthaste report`: a table and bars on a terminal, or verified bytes in a file or a pipe."""

import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Column, Table

from cli.client import REPORTS, Client
from cli.terminal import console, fail, problems, say
from jobs.histograms import make_bins

BAR_WIDTH = 50
BINS = 20
DEFAULT_TOP = 10
PAGE = 10_000  # the most rows of a page of the API
BINARY = ("parquet", "arrow")

Form = Literal["table", "json", "csv", "parquet", "arrow"]
Row = dict[str, int]  # user_id, total_words


@dataclass(frozen=True, slots=True)
class Output:
    """The place and the form of the result. `path` None: standard output. `top`: only so many users, most words first."""

    form: Form
    path: Path | None
    top: int | None
    plot: bool

    def check(self) -> None:
        """End the command with exit code 2 if these options contradict each other."""
        if self.form == "table" and self.path is not None:
            fail("--output saves json, csv, parquet and arrow; name one with --format", 2)
        if self.form in BINARY and self.top is not None:
            fail(f"--top is for table, json and csv; --limit makes a {self.form} result of the top users", 2)
        if self.form in BINARY and self.path is None and sys.stdout.isatty():
            fail(f"{self.form} is binary and standard output is a terminal; --output FILE saves it", 2)
        if self.plot and self.form != "table" and self.path is None:
            fail("--plot draws on standard output, which has the result; --output FILE saves the result", 2)
        if self.path is not None and (self.path.is_dir() or not self.path.parent.is_dir()):
            fail(f"--output {self.path}: not a file in an existing folder", 2)

    def write(self, client: Client, id_: str) -> None:
        """Download the result, verify it, and write it. Raises `ApiError` and `OSError`; then the old file is unchanged."""
        if self.path is None:
            with tempfile.TemporaryFile() as file:
                self._download(client, id_, file)
                file.seek(0)
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.write(b"\n" if self.form == "json" else b"")
            sys.stdout.buffer.flush()
            return
        part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                self._download(client, id_, file)
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)
        say(f"{self.path}: {self.path.stat().st_size:,} bytes", problems)

    def _download(self, client: Client, id_: str, file: Any) -> None:
        if self.top is None:
            client.download(f"{REPORTS}/{id_}/result?format={self.form}", file)
            return
        rows = _sorted(client.call(f"{REPORTS}/{id_}/result")["data"])[: self.top]
        lines = ["user_id,total_words", *(f"{row['user_id']},{row['total_words']}" for row in rows), ""]
        text = json.dumps({"data": rows}) if self.form == "json" else "\r\n".join(lines)
        file.write(text.encode())


def print_top(client: Client, state: dict[str, Any], wanted: Output, *, is_ordered: bool, histogram: bool) -> None:
    """Print the users with the most words: a table unless the result is written elsewhere, and bars if they are wanted."""
    most = wanted.top or DEFAULT_TOP
    first, users, words = _top(client, state, most, is_ordered=is_ordered)
    say(f"Top {len(first)} of {users:,} users, {words:,} words in all")
    if wanted.form == "table":
        table = Table(Column("user", justify="right"), Column("words", justify="right"))
        for row in first:
            table.add_row(str(row["user_id"]), f"{row['total_words']:,}")
        console.print(table)
    pairs = client.call(f"{REPORTS}/{state['id']}/histogram")["data"] if histogram else []
    bins = make_bins([(pair["words"], pair["posts"]) for pair in pairs], BINS)
    if wanted.plot:
        console.print(_bars([(str(row["user_id"]), row["total_words"]) for row in first]), highlight=False)
    if bins and not wanted.plot:
        lengths = Table(Column("words in a post", justify="right"), Column("posts", justify="right"))
        for each in bins:
            lengths.add_row(each.label, f"{each.posts:,}")
        console.print(lengths)
    elif bins:
        say("Posts by their number of words")
        console.print(_bars([(each.label, each.posts) for each in bins]), highlight=False)


def _top(client: Client, state: dict[str, Any], most: int, *, is_ordered: bool) -> tuple[list[Row], int, int]:
    """The users with the most words, and the numbers of all users and words that were counted."""
    path, summary = f"{REPORTS}/{state['id']}/result", state.get("summary")
    if summary is not None and is_ordered and most <= PAGE:
        return client.call(f"{path}?limit={most}")["data"], summary["users"], summary["words"]
    rows: list[Row] = client.call(path)["data"]
    if summary is None:
        summary = {"users": len(rows), "words": sum(row["total_words"] for row in rows)}
    return _sorted(rows)[:most], summary["users"], summary["words"]


def _sorted(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row["total_words"], row["user_id"]))


def _bars(rows: Sequence[tuple[str, int]]) -> str:
    most = max((value for _, value in rows), default=0) or 1
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join(f"{label:>{width}} {'█' * round(BAR_WIDTH * value / most)} {value:,}" for label, value in rows)
