"""Reports in the console, over real HTTP without JavaScript."""

import html
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from infra.postgres.posts import Post, Posts
from jobs.reports import ReportParameters
from tests.support.console import Answer, Visitor, visitor
from tests.support.keys import call
from tests.support.results import insert_result
from tests.support.stack import Stack
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOBS = "/api/2.0/report/jobs"


@pytest.fixture
async def browser(stack: Stack) -> AsyncIterator[Visitor]:
    async with visitor(stack.base) as opened:
        yield opened


def field(page: Answer, name: str) -> str:
    found = re.search(rf'name="{name}"(?: type="[a-z-]+")? value="([^"]*)"', page.text)
    assert found, page.words
    return html.unescape(found[1])


async def test_a_report_is_started_once_and_shows_its_result(stack: Stack, browser: Visitor) -> None:
    stack.start("reporter", "consumers", "reports")
    Posts(stack.database).fill(Post(n % 60, "word " * (n % 60 + 1), NOW) for n in range(600))
    page = await browser.get("/console/reports")
    assert "No reports yet" in page.words
    form = {"key": field(page, "key")}
    places = {(await browser.post("/console/reports", form)).place for _ in range(2)}
    assert len(places) == 1, "the second click started another report"
    (place,) = places
    shown = await eventually(lambda: browser.get(place), lambda answer: "completed" in answer.words)
    assert "60 users wrote" in shown.words and "The 12 users with the most words" in shown.words
    assert shown.text.count('<rect class="mark"') == 12
    cursor = re.search(r"cursor=([^\"]+)", shown.text)
    assert cursor
    second = await browser.get(f"{place}?cursor={html.unescape(cursor[1])}")
    assert "First page" in second.words and second.status == 200
    id_ = place.rpartition("/")[2]
    _, result, _ = await call(stack, "GET", f"{JOBS}/{id_}/result")
    assert json.loads((await browser.get(f"{place}/result?format=json")).text)["data"] == result["data"]
    table = await browser.get(f"{place}/result?format=csv")
    assert table.text.splitlines()[1:] == [f"{row['user_id']},{row['total_words']}" for row in result["data"]]
    assert "attachment" in table.headers["Content-Disposition"]
    assert id_ in (await browser.get("/console/reports")).words
    for path, status in (
        (f"{place}?cursor=!", 422),
        (f"{place}/result?format=xml", 422),
        (f"{place}/result?format=csv&part=all", 422),
        ("/console/reports/0190163d-8694-739b-aea5-966c26f8ad91", 404),
        ("/console/reports?cursor=!", 422),
    ):
        assert (await browser.get(path)).status == status, path
    assert (await browser.post("/console/reports", {"key": "short"})).status == 422
    assert (await browser.post("/console/reports", form, token="x")).status == 403
    assert (await browser.post("/console/reports", {**form, "order": "words"})).status == 422  # the key's report has another


async def test_the_form_of_a_report_names_each_fault_and_keeps_what_was_typed(stack: Stack, browser: Visitor) -> None:
    page = await browser.get("/console/reports")
    assert "checked>Histogram" in page.text
    key = {"key": field(page, "key")}
    for name, value, fault in (
        ("from", "2026-13-01T00:00", "must be an instant in UTC"),
        ("from", "<b>", "must be an instant in UTC"),
        ("to", "2026-01-01T00:00", "must be after `from`"),
        ("user_ids", "1, 2, x", "Number 3: Input should be a valid integer"),
        ("user_ids", "4294967296", "Number 1: Input should be less than or equal to 2147483647"),
        ("limit", "0", "Input should be greater than or equal to 1"),
        ("limit", "many", "Input should be a valid integer"),
        ("order", "random", "Input should be"),
        ("histogram", "bytes", "Input should be"),
    ):
        typed = {"from": "2026-02-01T00:00" if name == "to" else "", "user_ids": "7", "order": "words", name: value}
        answer = await browser.post("/console/reports", {**key, **typed})
        assert answer.status == 422 and fault in answer.words and "was not started" in answer.words, (name, answer.words)
        assert name in ("order", "histogram") or field(answer, name) == value
        assert name in ("order", "user_ids") or (field(answer, "user_ids"), 'words" selected' in answer.text) == ("7", True)
        assert field(answer, "key") == key["key"]
    assert stack.rows("SELECT count(*) FROM jobs") == [(0,)]
    typed = {
        "from": "2026-01-01T00:00",
        "to": "2026-02-01T00:00:30",
        "user_ids": "9 -3,9",
        "limit": "5",
        "order": "words",
        "histogram": "words",
    }
    assert (await browser.post("/console/reports", {**key, **typed})).status == 303
    ((body,),) = stack.rows("SELECT body FROM jobs")
    assert ReportParameters.from_body(str(body)) == ReportParameters(
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, 0, 0, 30, tzinfo=UTC), (-3, 9), "words", 5, histogram=True
    )


@pytest.mark.reuses_stack
async def test_a_result_has_charts_and_files_in_every_format(stack: Stack, browser: Visitor) -> None:
    parameters = ReportParameters(datetime(2026, 1, 1, tzinfo=UTC), None, (1, 2, 3), "words", 30, histogram=True)
    totals, lengths = {user: 10 * user + 1 for user in range(30)}, [(words, words % 7 + 1) for words in range(40)]
    id_ = insert_result(stack.database, totals, parameters, histogram=lengths)
    place = f"/console/reports/{id_}"
    page = await browser.get(place)
    for words in ("30 users wrote 4,380 words", "Posts by their number of words", "2026-01-01 00:00:00 UTC", "3 chosen"):
        assert words in page.words
    assert "User 29 has the most words: 291." in page.words and page.text.count('<rect class="mark"') == 12 + 20
    assert '<td>29</td><td class="number">291</td>' in page.text, "the table is in the order of the report"
    second = re.search(r"cursor=([^\"]+)", page.text)
    assert second and "<td>4</td>" in (await browser.get(f"{place}?cursor={second[1]}")).text
    for name in ("users", "histogram"):
        file = await browser.get(f"{place}/{name}.svg")
        assert file.headers["Content-Type"].startswith("image/svg+xml")
        assert file.headers["Content-Disposition"] == f'attachment; filename="report-{id_}-{name}.svg"'
        root = ElementTree.fromstring(file.text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and "style" not in file.text
        assert {"{http://www.w3.org/2000/svg}title", "{http://www.w3.org/2000/svg}desc"} <= {child.tag for child in root}
    for part in ("totals", "histogram"):
        for form in ("json", "csv", "parquet", "arrow"):
            async with browser.session.get(f"{browser.base}{place}/result?part={part}&format={form}") as response:
                body = await response.read()
                assert response.status == 200 and response.headers["Content-Disposition"].startswith("attachment")
                direct = f"{JOBS}/{id_}/{'result' if part == 'totals' else part}?format={form}"
                async with stack.session.get(stack.base + direct) as same:
                    assert body == await same.read()


@pytest.mark.reuses_stack
async def test_a_result_of_an_older_release_has_no_histogram(stack: Stack, browser: Visitor) -> None:
    place = f"/console/reports/{insert_result(stack.database, {1: 5, 2: 7})}"
    page = await browser.get(place)
    assert "2 users wrote 12 words" in page.words and "Posts by their" not in page.words
    assert [(await browser.get(f"{place}/{name}")).status for name in ("users.svg", "histogram.svg")] == [200, 404]
    assert (await browser.get(f"{place}/result?part=histogram&format=csv")).status == 404
