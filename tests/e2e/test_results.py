"""Results in every format: equal rows, hashes, conditional requests, pages in either order."""

import base64
import hashlib
import io
import os
import tempfile
from uuid import UUID

import pyarrow.parquet as pq
import pytest

from jobs.reports import ReportParameters
from tests.support.result_answers import TYPES, get_result, rows_of
from tests.support.results import SNAPSHOT, insert_result
from tests.support.stack import Stack
from tests.support.waiting import eventually

JOBS = "/api/2.0/report/jobs"
TOTALS = {5: 9, -7: 1, 3: 9, 8: 2**40}
BY_WORDS = ReportParameters(order="words", histogram=True)
LENGTHS = [(0, 3), (55, 4)]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    return shared_stack


@pytest.mark.parametrize("form", TYPES)
@pytest.mark.parametrize("parameters", [None, ReportParameters(), BY_WORDS], ids=["older release", "by user", "by words"])
async def test_a_whole_result_has_equal_rows_in_each_format(
    stack: Stack, form: str, parameters: ReportParameters | None
) -> None:
    id_ = insert_result(stack.database, TOTALS, parameters, histogram=LENGTHS if parameters is BY_WORDS else None)
    order = [8, 3, 5, -7] if parameters is BY_WORDS else [-7, 3, 5, 8]
    for path, headers in ((f"{JOBS}/{id_}/result?format={form}", {}), (f"{JOBS}/{id_}/result", {"Accept": TYPES[form]})):
        status, body, answer = await get_result(stack, path, **headers)
        assert (status, answer["Content-Type"].split(";")[0], answer["Vary"]) == (200, TYPES[form], "Accept")
        assert rows_of(form, body) == [(user, TOTALS[user]) for user in order]
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert answer["Repr-Digest"] == f"sha-256=:{digest}:"
        assert int(answer["Content-Length"]) == len(body)
    extension = {"arrow": "arrows"}.get(form, form)
    attached = None if form == "json" else f'attachment; filename="report-{id_}.{extension}"'
    assert answer.get("Content-Disposition") == attached


@pytest.mark.parametrize("form", TYPES)
async def test_an_empty_result_is_valid_in_each_format(stack: Stack, form: str) -> None:
    id_ = insert_result(stack.database, {}, ReportParameters())
    status, body, _ = await get_result(stack, f"{JOBS}/{id_}/result?format={form}")
    assert (status, rows_of(form, body)) == (200, [])


@pytest.mark.parametrize("form", TYPES)
async def test_head_has_the_headers_ofget_result(stack: Stack, form: str) -> None:
    id_ = insert_result(stack.database, TOTALS, ReportParameters())
    for query in (f"format={form}", f"format={form}&limit=2")[: 2 if form in ("json", "csv") else 1]:
        got = await get_result(stack, f"{JOBS}/{id_}/result?{query}")
        head = await get_result(stack, f"{JOBS}/{id_}/result?{query}", "HEAD")
        assert (head[0], head[1]) == (200, b"")
        for name in ("Content-Length", "Content-Type", "ETag", "Repr-Digest"):
            assert head[2][name] == got[2][name]


async def _connected(stack: Stack, id_: UUID) -> None:
    """Wait until the API has a connection for results: after many inserts, its first one may take longer than a read may."""
    await eventually(lambda: stack.get(f"{JOBS}/{id_}/result?limit=1"), lambda answer: answer[0] == 200)


async def test_more_than_a_batch_is_whole_in_each_format(stack: Stack) -> None:
    totals = {user: user % 1000 for user in range(150_001)}
    id_ = insert_result(stack.database, totals, BY_WORDS, histogram=LENGTHS)
    expected = sorted(totals.items(), key=lambda row: (-row[1], row[0]))
    await _connected(stack, id_)
    for form in TYPES:
        status, body, _ = await get_result(stack, f"{JOBS}/{id_}/result?format={form}")
        assert (status, rows_of(form, body)) == (200, expected), form


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize("parameters", [None, BY_WORDS], ids=["by user", "by words"])
async def test_pages_in_either_order(stack: Stack, form: str, parameters: ReportParameters | None) -> None:
    id_ = insert_result(stack.database, TOTALS, parameters)
    whole = rows_of(form, (await get_result(stack, f"{JOBS}/{id_}/result?format={form}"))[1])
    path, pages, tags = f"{JOBS}/{id_}/result?format={form}&limit=3", [], set()
    while path:
        status, body, headers = await get_result(stack, path)
        assert status == 200
        assert headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
        assert (await get_result(stack, path, If_None_Match=headers["ETag"]))[:2] == (304, b"")
        assert ("Content-Disposition" in headers) == (form == "csv")
        pages.append(rows_of(form, body))
        tags.add(headers["ETag"])
        path = headers.get("Link", "<>").partition(">")[0][1:]
    assert ([len(page) for page in pages], [row for page in pages for row in page]) == ([3, 1], whole)
    assert len(tags) == 2


async def test_the_entity_tag_identifies_content_format_and_page(stack: Stack) -> None:
    shared = [insert_result(stack.database, TOTALS, BY_WORDS, histogram=LENGTHS) for _ in range(2)]
    others = [
        insert_result(stack.database, {**TOTALS, 5: 8}, BY_WORDS, histogram=LENGTHS),
        insert_result(stack.database, TOTALS, BY_WORDS, histogram=[(0, 7)]),
        insert_result(stack.database, TOTALS),
        insert_result(stack.database, TOTALS),
    ]

    async def tag(id_: UUID, query: str) -> str:
        return str((await get_result(stack, f"{JOBS}/{id_}/result?{query}"))[2]["ETag"])

    one, two = [await tag(id_, "format=csv") for id_ in shared]
    assert one == two and one.startswith('"'), "equal content has one strong entity tag"
    queries = (
        "format=json",
        "format=parquet",
        "format=arrow",
        "format=csv&limit=2",
        "format=csv&limit=3",
        "format=json&limit=3",
    )
    tags = [one, *[await tag(shared[0], query) for query in queries], *[await tag(id_, "format=csv") for id_ in others]]
    tags.append(str((await get_result(stack, f"{JOBS}/{shared[0]}/histogram?format=csv"))[2]["ETag"]))
    assert len(set(tags)) == len(tags)
    path = f"{JOBS}/{shared[0]}/result?format=parquet"
    current = await tag(shared[0], "format=parquet")
    for known in (current, f"W/{current}", f'"x", {current}', "*"):
        status, body, headers = await get_result(stack, path, If_None_Match=known)
        assert (status, body, headers["ETag"], headers["Vary"]) == (304, b"", current, "Accept"), known
    for known in ('"x"', one):
        assert (await get_result(stack, path, If_None_Match=known))[0] == 200, known


async def test_the_histogram_in_each_format(stack: Stack) -> None:
    id_ = insert_result(stack.database, TOTALS, BY_WORDS, histogram=LENGTHS)
    for form in TYPES:
        status, body, headers = await get_result(stack, f"{JOBS}/{id_}/histogram?format={form}")
        assert (status, rows_of(form, body)) == (200, LENGTHS), form
        assert (await get_result(stack, f"{JOBS}/{id_}/histogram?format={form}", If_None_Match=headers["ETag"]))[0] == 304
    assert headers["Content-Disposition"] == f'attachment; filename="report-{id_}-histogram.arrows"'
    assert (await stack.get(f"{JOBS}/{id_}/result"))[1]["histogram"] == [{"words": words, "posts": n} for words, n in LENGTHS]
    assert "histogram" not in (await stack.get(f"{JOBS}/{id_}/result?limit=2"))[1]
    body = (await get_result(stack, f"{JOBS}/{id_}/result?format=parquet"))[1]
    metadata = pq.read_schema(io.BytesIO(body)).metadata
    assert metadata[b"posthaste.histogram"] == b"[[0,3],[55,4]]" and metadata[b"posthaste.posts"] == b"7"
    without = insert_result(stack.database, TOTALS, ReportParameters())
    for path in (f"{JOBS}/{without}/histogram", f"{JOBS}/{insert_result(stack.database, TOTALS)}/histogram"):
        code, problem = await stack.get(path)
        assert (code, problem["code"]) == (404, "not_found") and "histogram" in problem["detail"]


async def test_the_state_has_a_summary(stack: Stack) -> None:
    id_ = insert_result(stack.database, TOTALS, BY_WORDS, histogram=LENGTHS)
    _, record = await stack.get(f"{JOBS}/{id_}")
    assert record["summary"] == {"posts": 7, "users": 4, "words": 2**40 + 19, "snapshot_at": SNAPSHOT}
    assert (await stack.get(f"{JOBS}?limit=1"))[1]["data"][0]["summary"] == record["summary"]
    assert (await stack.get(f"{JOBS}/{insert_result(stack.database, TOTALS)}"))[1]["summary"] is None
    async with stack.session.post(stack.base + "/api/2.0/report/posts") as response:
        queued = (await response.json())["id"]
    assert (await stack.get(f"{JOBS}/{queued}"))[1]["summary"] is None
    assert (await stack.get(f"{JOBS}/{queued}/histogram"))[1]["code"] == "not_completed"


async def test_wrong_requests_are_named(stack: Stack) -> None:
    id_ = insert_result(stack.database, TOTALS, BY_WORDS)
    for query, headers, names in (
        ("format=parquet&limit=2", {}, ["?limit"]),
        ("format=arrow&limit=2&cursor=MQ", {}, ["?limit", "?cursor"]),
        ("cursor=MQ", {"Accept": TYPES["parquet"]}, ["?cursor"]),
        ("format=xlsx", {}, ["?format"]),
        ("limit=0", {}, ["?limit"]),
        ("cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk", {}, ["?cursor"]),
    ):
        async with stack.session.get(f"{stack.base}{JOBS}/{id_}/result?{query}", headers=headers) as response:
            answer = await response.json()
            assert (response.status, [each["pointer"] for each in answer["errors"]]) == (422, names), query
    for part in ("result", "histogram"):
        assert (await get_result(stack, f"{JOBS}/{id_}/{part}", Accept="image/png"))[0] == 406
    assert (await stack.get(f"{JOBS}/{id_}/histogram?limit=1"))[1]["errors"][0]["pointer"] == "?limit"


async def test_a_cursor_without_a_limit_leads_to_the_rest(stack: Stack) -> None:
    id_ = insert_result(stack.database, TOTALS, BY_WORDS)
    cursor = (await stack.get(f"{JOBS}/{id_}/result?limit=1"))[1]["next_cursor"]
    rest = (await stack.get(f"{JOBS}/{id_}/result?cursor={cursor}"))[1]["data"]
    assert [row["user_id"] for row in rest] == [3, 5, -7]


def _open_temporary_files(stack: Stack) -> list[str]:
    """The temporary files of the API, as the system names them."""
    forked = stack.processes["api"].forked
    assert forked is not None
    folder = f"/proc/{forked.pid}/fd"
    return [file for fd in os.listdir(folder) if (file := os.readlink(f"{folder}/{fd}")).startswith(tempfile.gettempdir())]


async def test_the_file_of_a_result_has_no_name_and_is_closed_with_its_answer(stack: Stack) -> None:
    """A killed process leaves no file."""
    before = set(_open_temporary_files(stack))
    id_ = insert_result(stack.database, dict.fromkeys(range(300_000), 2**40), ReportParameters())
    await _connected(stack, id_)
    async with stack.session.get(f"{stack.base}{JOBS}/{id_}/result") as response:
        assert response.status == 200  # nothing more is read, so the answer is not complete
        opened = set(_open_temporary_files(stack)) - before
        assert len(opened) == 1 and all(file.endswith(" (deleted)") for file in opened)
        response.close()

    async def still_open() -> set[str]:
        return set(_open_temporary_files(stack)) & opened

    await eventually(still_open, lambda files: not files)


async def test_a_client_sees_its_own_results_only(stack: Stack) -> None:
    theirs = insert_result(stack.database, TOTALS, BY_WORDS, histogram=LENGTHS, client_id="other")
    for path in ("", "/result", "/histogram", "/result?format=parquet", "/result?limit=1"):
        assert (await stack.get(f"{JOBS}/{theirs}{path}"))[0] == 404
