"""Failures while a result is read and written are problem answers: no byte of the answer was sent before."""

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from starlette.requests import Request
from starlette.types import Message

from api import results
from api.problems import Problem
from api.result_files import FileAnswer
from api.result_formats import FORMATS, Format
from api.results import ResultAnswers
from infra.postgres.errors import Unavailable
from infra.postgres.results import ReportResult, Total
from jobs.reports import ReportParameters
from tests.support.factories import new_id

ROWS = [Total(user, user, 1) for user in range(25_000)]


class Results:
    """A stored result of `ROWS`. `before_page(n)` runs before the n-th page is read."""

    def __init__(self, before_page: Callable[[int], None] = lambda n: None):
        self.result: ReportResult | None = ReportResult(new_id(), uuid4(), ReportParameters())
        self._before_page = before_page
        self._pages = 0

    async def find(self, id_: UUID, timeout: float) -> ReportResult | None:
        return self.result

    async def page(self, result: ReportResult, after: int, limit: int, timeout: float) -> list[Total]:
        self._pages += 1
        self._before_page(self._pages)
        return [row for row in ROWS if row.key > after][:limit]


def _request(**headers: str) -> Request:
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": listed})


async def _whole(stored: Results, format_: Format) -> FileAnswer:
    answer = await ResultAnswers(cast(Any, stored)).totals(_request(), new_id(), format_)
    assert isinstance(answer, FileAnswer)
    return answer


async def _body(answer: FileAnswer) -> bytes:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await answer({"type": "http", "method": "GET"}, cast(Any, None), send)
    return b"".join(message.get("body", b"") for message in sent)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[io.BufferedRandom]:
    """The temporary files."""
    files: list[io.BufferedRandom] = []
    create = tempfile.TemporaryFile

    def remembered() -> Any:
        files.append(create())
        return files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", remembered)
    return files


@pytest.mark.parametrize("format_", FORMATS.values(), ids=list(FORMATS))
async def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch, format_: Format) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: Path("/dev/full").open("r+b"))  # noqa: SIM115
    with pytest.raises(Problem) as raised:
        await _whole(Results(), format_)
    assert (raised.value.status, raised.value.code) == (503, "storage_full")
    assert raised.value.headers == {"Retry-After": "60"}


async def test_no_folder_for_temporary_files_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", missing)
    with pytest.raises(Problem, match="storage_full"):
        await _whole(Results(), FORMATS["csv"])


@pytest.mark.parametrize("format_", FORMATS.values(), ids=list(FORMATS))
async def test_a_failed_read_in_the_middle_is_an_error_and_closes_the_file(
    opened: list[io.BufferedRandom], format_: Format
) -> None:
    def fail(page: int) -> None:
        if page == 2:
            raise Unavailable("the connection was lost")

    with pytest.raises(Unavailable):
        await _whole(Results(fail), format_)
    assert [file.closed for file in opened] == [True]


async def test_a_report_that_is_deleted_meanwhile_has_no_torn_result(opened: list[io.BufferedRandom]) -> None:
    stored = Results()

    def delete(page: int) -> None:
        if page == 2:
            stored.result = None

    stored._before_page = delete
    with pytest.raises(Problem, match="not_found"):
        await _whole(stored, FORMATS["csv"])
    assert [file.closed for file in opened] == [True]


async def test_the_file_is_closed_after_the_answer_and_after_a_lost_client(opened: list[io.BufferedRandom]) -> None:
    body = await _body(await _whole(Results(), FORMATS["csv"]))
    assert body.count(b"\r\n") == len(ROWS) + 1

    async def lost(message: Message) -> None:
        raise OSError("the client is gone")

    with suppress(OSError):
        await (await _whole(Results(), FORMATS["json"]))({"type": "http", "method": "GET"}, cast(Any, None), lost)
    assert [file.closed for file in opened] == [True, True]


async def test_the_current_entity_tag_spares_the_reads() -> None:
    stored = Results()
    etag = (await _whole(stored, FORMATS["csv"])).headers["ETag"]
    stored._before_page = lambda n: pytest.fail("read")
    answer = await ResultAnswers(cast(Any, stored)).totals(_request(if_none_match=etag), new_id(), FORMATS["csv"])
    assert answer.status_code == 304


async def test_requests_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "WAITING", -results.AT_ONCE)
    with pytest.raises(Problem) as raised:
        await _whole(Results(), FORMATS["csv"])
    assert (raised.value.status, raised.value.code) == (503, "busy")


def test_the_api_imports_pyarrow_with_the_first_file_that_needs_it() -> None:
    script = "import sys, api.__main__, api.app; assert not {'pyarrow', 'numpy'} & sys.modules.keys(), 'imported'"
    subprocess.run([sys.executable, "-c", script], check=True)
