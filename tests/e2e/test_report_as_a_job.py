"""The report as a job equals the report within the request, survives faults, and never returns a wrong result."""

import asyncio
import csv
import io
import json
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.postgres.posts import Busy, Post, Posts
from jobs.words import count_words
from tests.support.services import Services, management, sql
from tests.support.stack import Stack, running
from tests.support.stacks import Stacks
from tests.support.waiting import eventually

SYNC, SUBMIT, JOBS = "/api/1.0/report/posts", "/api/2.0/report/posts", "/api/2.0/report/jobs"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ODD = [
    *("tab\there", "line\nfeed", "carriage\r\nreturn", "no\u00a0break", "ideo\u3000graphic", "a\x1cb\x1dc\x1ed\x1fe"),
    *("😀 👩‍👩‍👧 x", "", "   ", "\u2028\u2029", "zero\u200bwidth", "back\\slash \\n \\N", "next\x85line", "\ufeffbom"),
]
RETRY = json.dumps({"attempts": 2, "base_seconds": 0.05, "cap_seconds": 0.1})


@pytest.fixture
async def reporting(stacks: Stacks) -> Any:
    """A stack with a process for reports; failed reports are retried once, quickly."""
    async with stacks.lent(others={"reporter": ("consumers", "reports")}, report_retry=RETRY) as lent:
        yield lent


async def _submit(stack: Stack, **sent: Any) -> dict[str, Any]:
    async with stack.session.post(stack.base + SUBMIT, **sent) as response:
        answer = await response.json()
        assert response.status == 202, answer
        assert response.headers["Location"] == f"{JOBS}/{answer['id']}"
        return dict(answer)


async def _state(stack: Stack, id_: str) -> dict[str, Any]:
    code, answer = await stack.get(f"{JOBS}/{id_}")
    assert code == 200, answer
    return answer


async def _becomes(stack: Stack, id_: str, *statuses: str, seconds: float = 40) -> dict[str, Any]:
    return await eventually(lambda: _state(stack, id_), lambda state: state["status"] in statuses, seconds)


async def _text(stack: Stack, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    async with stack.session.get(stack.base + path, headers=headers) as response:
        return response.status, await response.text(), dict(response.headers)


def _fill(stack: Stack, count: int, users: int = 50) -> None:
    Posts(stack.database).fill(Post(n % users, f"{'word ' * (n % 7)}\t{ODD[n % len(ODD)]}", NOW) for n in range(count))


async def test_the_job_computes_the_same_report_as_the_request(reporting: Stack) -> None:
    stack = reporting
    _fill(stack, 5000)
    answer = await _submit(stack)
    assert set(answer) == {"id", "status", "message", "created_at", "links"}
    assert (answer["status"], answer["message"]) == ("queued", "Report job submitted")
    state = await _becomes(stack, answer["id"], "completed")
    assert (state["attempts"], state["version"], state["reason"]) == (1, 3, None)
    code, result = await stack.get(answer["links"]["result"])
    assert (code, result) == await stack.get(SYNC)
    expected: dict[int, int] = {}
    for user, text in sql(stack.database, "SELECT user_id, context FROM posts"):
        expected[int(str(user))] = expected.get(int(str(user)), 0) + count_words(str(text))
    assert result["data"] == [{"user_id": user, "total_words": expected[user]} for user in sorted(expected)]
    assert await stack.get(answer["links"]["status"]) == (200, {"status": "completed"})
    assert (await stack.get(f"/message/{answer['id']}/status"))[0] == 404
    assert (await stack.get(f"/messages/{answer['id']}"))[0] == 404


async def test_the_report_of_no_posts_is_empty_in_every_format(reporting: Stack) -> None:
    answer = await _submit(reporting, json={})
    await _becomes(reporting, answer["id"], "completed")
    result = answer["links"]["result"]
    assert await reporting.get(result) == (200, {"data": []})
    assert await reporting.get(f"{result}?limit=5") == (200, {"data": [], "next_cursor": None})
    assert (await _text(reporting, f"{result}?format=csv"))[1] == "user_id,total_words\r\n"


async def test_a_result_is_json_or_csv_whole_or_in_pages(reporting: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = reporting
    Posts(stack.database).fill(Post(user, "two words", NOW) for user in (*range(25_000), -5))
    answer = await _submit(stack)
    await _becomes(stack, answer["id"], "completed")
    path = answer["links"]["result"]
    whole = (await stack.get(path))[1]["data"]
    assert [row["user_id"] for row in whole] == [-5, *range(25_000)]
    for request_path, headers in ((f"{path}?format=csv", {}), (path, {"Accept": "text/html;q=0.9, text/csv"})):
        code, text, sent = await _text(stack, request_path, **headers)
        assert (code, sent["Content-Type"].split(";")[0]) == (200, "text/csv")
        assert [{k: int(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(text))] == whole
    assert (await _text(stack, path, Accept="image/png"))[0] == 406
    paged: list[Any] = []
    cursor = ""
    while cursor is not None:
        code, page = await stack.get(f"{path}?limit=9999{cursor and '&cursor=' + cursor}")
        assert code == 200 and len(page["data"]) <= 9999
        paged += page["data"]
        cursor = page["next_cursor"]
    assert paged == whole
    link = (await _text(stack, f"{path}?format=csv&limit=2"))[2]["Link"]
    following = await _text(stack, link.partition(">")[0][1:])
    assert following[1].splitlines() == ["user_id,total_words", "1,2", "2,2"]


async def test_reports_are_listed_newest_first_in_pages(reporting: Stack) -> None:
    ids = [(await _submit(reporting))["id"] for _ in range(5)]
    code, first = await reporting.get(f"{JOBS}?limit=3")
    assert (code, [item["id"] for item in first["data"]]) == (200, ids[:1:-1])
    code, second = await reporting.get(f"{JOBS}?limit=3&cursor={first['next_cursor']}")
    assert ([item["id"] for item in second["data"]], second["next_cursor"]) == (ids[1::-1], None)


async def test_wrong_requests_are_named(reporting: Stack) -> None:
    stack = reporting
    async with stack.session.get(stack.base + SUBMIT) as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
    for sent, status, pointer in (
        ({"json": {"posts": 1}}, 422, "/posts"),
        ({"json": []}, 422, ""),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, None),
        ({"data": b"a=1", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415, None),
    ):
        async with stack.session.post(stack.base + SUBMIT, **sent) as response:
            answer = await response.json()
            assert (response.status, answer.get("errors", [{}])[0].get("pointer")) == (status, pointer)
    message = await stack.submit()
    for id_ in (message, "01a1ff6c-bcef-7503-afba-6071d2a10df9", "x"):
        for path in ("", "/status", "/result"):
            assert (await stack.get(f"{JOBS}/{id_}{path}"))[0] == 404
    id_ = (await _submit(stack))["id"]
    await _becomes(stack, id_, "completed")
    for query, name in (
        ("format=xml", "?format"),
        ("limit=0", "?limit"),
        ("limit=10001", "?limit"),
        ("limit=x", "?limit"),
        ("limit=1&limit=2", "?limit"),
        ("cursor=%F0%9F%98%80", "?cursor"),
        ("cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk", "?cursor"),
        ("nonsense=1", "?nonsense"),
    ):
        code, answer = await stack.get(f"{JOBS}/{id_}/result?{query}")
        assert (code, answer["errors"][0]["pointer"]) == (422, name), query
    code, answer = await stack.get(f"{JOBS}?cursor=abc")
    assert (code, answer["errors"][0]["pointer"]) == (422, "?cursor")


async def test_there_is_no_result_before_the_end(stack: Stack) -> None:
    answer = await _submit(stack)
    code, problem = await stack.get(answer["links"]["result"])
    assert (code, problem["code"]) == (409, "not_completed")
    assert (await _state(stack, answer["id"]))["progress"] is None


class _Locked:
    """Hold a lock that blocks reports."""

    def __init__(self, stack: Stack):
        import psycopg2

        self._connection = psycopg2.connect(stack.database)
        with self._connection.cursor() as cursor:
            cursor.execute("LOCK TABLE posts IN ACCESS EXCLUSIVE MODE")

    def release(self) -> None:
        self._connection.close()


async def test_a_busy_process_leaves_the_next_report_to_an_idle_one(reporting: Stack) -> None:
    stack = reporting
    stack.start("reporter2", "consumers", "reports")
    lock = _Locked(stack)
    ids = [(await _submit(stack))["id"] for _ in range(2)]
    for id_ in ids:
        await _becomes(stack, id_, "processing")
    third = (await _submit(stack))["id"]
    stack.start("reporter3", "consumers", "reports")
    await _becomes(stack, third, "processing", seconds=15)
    lock.release()
    for id_ in (*ids, third):
        await _becomes(stack, id_, "completed")


async def test_progress_is_recorded_and_the_lease_renewed_while_a_report_runs(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    quick = {"timeout_seconds": 0.5}
    async with running(services, database, broker_namespace, tmp_path, provider=quick, lease_seconds="3") as stack:
        _fill(stack, 20_000)
        sql(stack.database, "ANALYZE posts")
        stack.proxies["postgres"].throttle(200_000)
        stack.start("reporter", "consumers", "reports")
        id_ = (await _submit(stack))["id"]
        state = await eventually(
            lambda: _state(stack, id_), lambda state: state["progress"] and 0 < state["progress"]["posts"] < 20_000, 30
        )
        assert state["progress"]["of_about"] == 20_000
        done = await _becomes(stack, id_, "completed", seconds=60)
        assert (done["version"], done["attempts"]) == (3, 1)
        assert (done["progress"]["posts"], done["progress"]["of_about"]) == (20_000, 20_000)


async def test_a_worker_killed_in_mid_report_is_replaced_and_the_result_is_right(reporting: Stack) -> None:
    stack = reporting
    stack.environment["POSTHASTE_LEASE_SECONDS"] = "4"
    await stack.processes["reporter"].kill()
    stack.start("reporter", "consumers", "reports")
    _fill(stack, 3000)
    lock = _Locked(stack)
    id_ = (await _submit(stack))["id"]
    await _becomes(stack, id_, "processing")
    await stack.processes["reporter"].kill()
    stack.start("reporter2", "consumers", "reports")
    lock.release()
    state = await _becomes(stack, id_, "completed")
    assert state["attempts"] == 1
    assert await stack.get(f"{JOBS}/{id_}/result") == await stack.get(SYNC)
    outcomes = stack.rows("SELECT outcome, charged FROM attempts ORDER BY n")
    assert outcomes == [("lease_lost", False), ("accepted", True)]


async def test_sigterm_in_mid_report_gives_it_to_another_uncharged(reporting: Stack) -> None:
    stack = reporting
    lock = _Locked(stack)
    id_ = (await _submit(stack))["id"]
    await _becomes(stack, id_, "processing")
    stack.start("reporter2", "consumers", "reports")
    stack.processes["reporter"].signal(signal.SIGTERM)
    assert await stack.processes["reporter"].wait(15) == 0
    lock.release()
    assert (await _becomes(stack, id_, "completed"))["attempts"] == 1
    assert stack.rows("SELECT outcome FROM attempts") == [("accepted",)]


async def test_a_report_that_cannot_be_computed_fails_with_its_reason_and_can_be_requeued(reporting: Stack) -> None:
    stack = reporting
    _fill(stack, 10)
    sql(stack.database, "ALTER TABLE posts RENAME TO elsewhere")
    id_ = (await _submit(stack))["id"]
    state = await _becomes(stack, id_, "failed")
    assert (state["attempts"], state["reason"], state["last_reason"]) == (2, "attempts_exhausted", "posts_missing")
    code, problem = await stack.get(f"{JOBS}/{id_}/result")
    assert (code, problem["code"]) == (409, "no_result") and "posts_missing" in problem["detail"]
    queue = f"/api/queues/%2F/{stack.namespace}.reports.dead/get"
    body = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}

    async def read() -> Any:
        return await management(stack.services, "POST", queue, body)

    (dead,) = await eventually(read, bool, 15)
    headers = dead["properties"]["headers"]
    assert (headers["kind"], headers["reason"], headers["last_reason"]) == ("report", "attempts_exhausted", "posts_missing")
    # Moved back to its work queue by hand, as a message would be.
    sql(stack.database, "ALTER TABLE elsewhere RENAME TO posts")
    await management(
        stack.services,
        "POST",
        f"/api/exchanges/%2F/{stack.namespace}.jobs/publish",
        {"properties": {}, "routing_key": "reports", "payload": dead["payload"], "payload_encoding": "string"},
    )
    assert (await _becomes(stack, id_, "completed"))["attempts"] == 1
    assert await stack.get(f"{JOBS}/{id_}/result") == await stack.get(SYNC)


async def test_truncate_in_mid_report_is_refused_and_names_the_report(reporting: Stack) -> None:
    stack = reporting
    _fill(stack, 100)
    lock = _Locked(stack)
    id_ = (await _submit(stack))["id"]
    await _becomes(stack, id_, "processing")
    with pytest.raises(Busy, match=id_):
        await asyncio.to_thread(Posts(stack.database).truncate)
    lock.release()
    await _becomes(stack, id_, "completed")
    await asyncio.to_thread(Posts(stack.database).truncate)
    assert await stack.get(SYNC) == (200, {"data": []})


async def test_without_postgres_a_report_is_not_accepted(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, accept_timeout_seconds="0.8") as stack:
        await stack.proxies["postgres"].refuse()
        async with stack.session.post(stack.base + SUBMIT) as response:
            assert (response.status, (await response.json())["code"]) == (503, "unavailable")
        assert (await stack.get(JOBS))[0] == 503


async def test_the_command_submits_watches_and_shows(reporting: Stack) -> None:
    stack = reporting
    _fill(stack, 700, users=5)
    result = await stack.command("report", "--top", "3", "--plot")
    assert result.returncode == 0, result.stderr
    assert "Top 3 of 5 users" in result.stdout and result.stdout.count("█ ") == 3
    rows = (await stack.get(SYNC))[1]["data"]
    as_json = await stack.command("report", "--format", "json")
    assert json.loads(as_json.stdout) == {"data": rows}
    as_csv = await stack.command("report", "--format", "csv")
    assert [int(row["total_words"]) for row in csv.DictReader(io.StringIO(as_csv.stdout))] == [r["total_words"] for r in rows]
    most = sorted(rows, key=lambda row: -row["total_words"])[:3]
    assert json.loads((await stack.command("report", "--format", "json", "--top", "3")).stdout) == {"data": most}
    three = csv.DictReader(io.StringIO((await stack.command("report", "--format", "csv", "--top", "3")).stdout))
    assert [{name: int(value) for name, value in row.items()} for row in three] == most


async def test_the_command_saves_a_verified_file_of_each_format(reporting: Stack) -> None:
    stack = reporting
    _fill(stack, 700, users=5)
    expected = [(row["user_id"], row["total_words"]) for row in (await stack.get(SYNC))[1]["data"]]
    for form in ("json", "csv", "parquet", "arrow"):
        file = stack.folder / f"result.{form}"
        saved = await stack.command("report", "--format", form, "--output", str(file))
        assert (saved.returncode, saved.stdout) == (0, ""), saved.stderr
        assert f"{file.stat().st_size:,} bytes" in saved.stderr
    assert [
        (row["user_id"], row["total_words"]) for row in json.loads((stack.folder / "result.json").read_text())["data"]
    ] == expected
    assert (stack.folder / "result.csv").read_bytes().startswith(b"user_id,total_words\r\n")
    tables = pq.read_table(stack.folder / "result.parquet"), pa.ipc.open_stream((stack.folder / "result.arrow").read_bytes())
    for table in (tables[0], tables[1].read_all()):
        assert [tuple(row.values()) for row in table.to_pylist()] == expected
    wrong = await stack.command("report", "--limit", "0")
    assert wrong.returncode == 2
    refused = await stack.command("report", "--from", "2026-02-01", "--to", "2026-01-01")
    assert refused.returncode == 1 and "/to: must be after `from`" in refused.stderr


async def test_the_command_names_why_there_is_no_result_and_waits_no_longer_than_its_option(reporting: Stack) -> None:
    stack = reporting
    sql(stack.database, "ALTER TABLE posts RENAME TO elsewhere")
    failed = await stack.command("report")
    assert failed.returncode == 1 and "posts_missing" in failed.stderr
    sql(stack.database, "ALTER TABLE elsewhere RENAME TO posts")
    lock = _Locked(stack)
    late = await stack.command("report", "--timeout", "0.2")
    assert late.returncode == 3 and "continues" in late.stderr
    lock.release()


async def test_the_command_waits_for_any_job(reporting: Stack) -> None:
    stack = reporting
    for id_, end, code in (
        ((await _submit(stack))["id"], "completed", 0),
        (await stack.submit(), "sent", 0),
    ):
        waited = await stack.command("wait", id_)
        assert (waited.returncode, waited.stdout.strip()) == (code, end), waited.stderr
        status = await stack.command("status", id_)
        assert (status.returncode, status.stdout.strip()) == (0, end), status.stderr
    await stack.faults(fail=1, fail_status=400)
    refused = await stack.command("wait", await stack.submit())
    assert (refused.returncode, refused.stdout.strip()) == (1, "failed")
    nothing = await stack.command("wait", "01a1ff6c-bcef-7503-afba-6071d2a10df9")
    assert nothing.returncode == 1 and "there is no message or report" in nothing.stderr
