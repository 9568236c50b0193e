"""The options of `posthaste report`, and the verification of its downloads."""

import asyncio
import base64
import hashlib
import io
import os
import pty
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestServer

from api.models import ReportIn
from cli import report_output
from cli.client import ApiError, Client
from cli.report import _fields
from cli.report_output import Form, Output, print_top
from jobs.reports import ReportParameters

CONTENT = b"content" * 100_000
PATH = "/api/2.0/report/jobs/ID/result"


def _digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


async def _download(digest: str, target: Any, form: Form = "parquet") -> None:
    """Download `CONTENT` with this `Repr-Digest` to a path or a file. None: to standard output."""

    async def result(request: web.Request) -> web.Response:
        return web.Response(body=CONTENT, headers={"Repr-Digest": digest})

    app = web.Application()
    app.router.add_get(PATH, result)
    async with TestServer(app) as server:
        client = Client(str(server.make_url("/")))
        if target is None or isinstance(target, Path):
            await asyncio.to_thread(Output(form, target, None, plot=False).write, client, "ID")
        else:
            await asyncio.to_thread(client.download, PATH, target)


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_only_a_verified_result_replaces_the_file(tmp_path: Path, is_damaged: bool) -> None:
    path = tmp_path / "result.parquet"
    path.write_bytes(b"old")
    if is_damaged:
        with pytest.raises(ApiError, match="Repr-Digest"):
            await _download(_digest(b"other"), path)
    else:
        await _download(f"sha-512=:x:, {_digest(CONTENT)}", path)
    assert path.read_bytes() == (b"old" if is_damaged else CONTENT)
    assert [each.name for each in tmp_path.iterdir()] == ["result.parquet"]


@pytest.mark.parametrize(("form", "end"), [("json", b"\n"), ("csv", b""), ("arrow", b"")])
async def test_a_pipe_gets_the_verified_bytes(form: Form, end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
    await _download(_digest(CONTENT), None, form)
    assert pipe.getvalue() == CONTENT + end
    with pytest.raises(ApiError, match="Repr-Digest"):
        await _download(_digest(b"other"), None, form)
    assert pipe.getvalue() == CONTENT + end, "damaged bytes were printed"


async def test_a_full_disk_is_no_fault_of_the_api() -> None:
    full = await asyncio.to_thread(Path("/dev/full").open, "wb", buffering=0)
    with full, pytest.raises(OSError, match="No space left"):
        await _download(_digest(CONTENT), full)


@pytest.mark.parametrize(
    ("form", "path", "top", "plot", "named"),
    [
        ("table", "x", None, False, "--format"),
        ("parquet", "x", 3, False, "--limit"),
        ("parquet", None, None, False, "--output"),
        ("arrow", None, None, False, "--output"),
        ("json", None, None, True, "--output"),
        ("csv", "missing/x", None, False, "missing/x"),
        ("csv", ".", None, False, "--output ."),
    ],
)
def test_contradicting_options_are_refused_before_the_submission(
    form: Form, path: str | None, top: int | None, plot: bool, named: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    _, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(typer.Exit) as ended:
            Output(form, None if path is None else Path(path), top, plot).check()
    assert ended.value.exit_code == 2 and named in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "json", "csv", "parquet", "arrow"])
def test_a_pipe_takes_each_form(form: Form) -> None:
    Output(form, None, None, plot=False).check()  # pytest's standard output is no terminal


def test_options_become_the_parameters_of_the_api() -> None:
    start, end = datetime(2026, 1, 1), datetime(2026, 2, 1, 12)
    fields = _fields(start, end, [3, -1], "words", 5, histogram=True)
    assert (
        ReportIn.model_validate(fields).parameters().to_body()
        == ReportParameters.from_body(
            '{"start": "2026-01-01T00:00:00+00:00", "end": "2026-02-01T12:00:00+00:00", "user_ids": [-1, 3], "order": "words",'
            '"limit": 5, "histogram": true}'
        ).to_body()
    )
    assert _fields(None, None, None, "user_id", None, histogram=False) == {}


class Answers:
    """A client that answers these paths."""

    def __init__(self, **answers: Any):
        self._answers = answers

    def call(self, path: str) -> Any:
        return self._answers[path.rpartition("/")[2]]


TOTALS = [{"user_id": user, "total_words": words} for user, words in ((1, 5), (2, 9), (3, 9))]
LENGTHS = {"data": [{"words": 0, "posts": 3}, {"words": 55, "posts": 6}]}


def _printed(capsys: pytest.CaptureFixture[str], wanted: Output, answers: Answers, **options: bool) -> list[str]:
    summary = {"users": 30, "words": 1023}
    print_top(
        cast(Any, answers), {"id": "ID", "summary": summary}, wanted, **{"is_ordered": False, "histogram": False, **options}
    )
    return capsys.readouterr().out.splitlines()


def test_bars_of_the_top_users_and_of_the_histogram(capsys: pytest.CaptureFixture[str]) -> None:
    answers = Answers(result={"data": TOTALS}, histogram=LENGTHS)
    lines = _printed(capsys, Output("csv", Path("x"), 2, plot=True), answers, histogram=True)
    full = "█" * report_output.BAR_WIDTH
    assert lines[:3] == ["Top 2 of 30 users, 1,023 words in all", f"2 {full} 9", f"3 {full} 9"]
    assert lines[3:5] == ["Posts by their number of words", f"  0–4 {full[: len(full) // 2]} 3"]  # noqa: RUF001
    assert lines[-1] == f"55–59 {full} 6"  # noqa: RUF001


def test_the_histogram_is_a_table_without_bars(capsys: pytest.CaptureFixture[str]) -> None:
    answers = Answers(result={"data": TOTALS}, histogram=LENGTHS)
    text = "\n".join(_printed(capsys, Output("table", None, None, plot=False), answers, histogram=True))
    assert "words in a post" in text and "55–59" in text and "█" not in text  # noqa: RUF001


def test_the_top_of_an_ordered_result_is_its_first_page(capsys: pytest.CaptureFixture[str]) -> None:
    answers = Answers(**{"result?limit=2": {"data": TOTALS[1:]}})
    lines = _printed(capsys, Output("table", None, 2, plot=False), answers, is_ordered=True)
    assert lines[0] == "Top 2 of 30 users, 1,023 words in all"
