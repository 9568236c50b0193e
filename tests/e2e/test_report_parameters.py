"""Parameters of reports, from the submission to the result in every format."""

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.postgres.posts import Post, Posts
from tests.support.result_answers import TYPES, get_result, rows_of
from tests.support.stack import REPORTS, Stack
from tests.support.stacks import Stacks
from tests.support.waiting import eventually

JOBS = "/api/2.0/report/jobs"
START = datetime(2026, 1, 1, tzinfo=UTC)
POSTS = [Post(n % 50, "word " * (n * 7 % 90), START + timedelta(hours=n % 48)) for n in range(5000)]


@pytest.fixture
async def stack(stacks: Stacks) -> AsyncIterator[Stack]:
    async with stacks.lent(others={"reporter": ("consumers", "reports")}) as lent:
        Posts(lent.database).fill(POSTS)
        yield lent


async def _completed(stack: Stack, **parameters: Any) -> str:
    """The path of a new report, once it is completed."""
    async with stack.session.post(stack.base + REPORTS, json=parameters) as response:
        assert response.status == 202, await response.text()
        path = f"{JOBS}/{(await response.json())['id']}"
    await eventually(lambda: stack.get(path), lambda answer: answer[1]["status"] == "completed")
    return path


def _expected(posts: list[Post], limit: int | None = None) -> list[tuple[int, int]]:
    """Words by user, most first."""
    words: dict[int, int] = {}
    for post in posts:
        words[post.user_id] = words.get(post.user_id, 0) + len(post.context.split())
    return sorted(words.items(), key=lambda row: (-row[1], row[0]))[:limit]


async def test_a_limited_and_ordered_result_with_its_histogram(stack: Stack) -> None:
    paths = [await _completed(stack, order="words", limit=7, histogram="words") for _ in range(2)]
    lengths = sorted({(words, sum(n * 7 % 90 == words for n in range(5000))) for words in range(90)})
    for form in TYPES:
        status, body, headers = await get_result(stack, f"{paths[0]}/result?format={form}")
        assert (status, rows_of(form, body)) == (200, _expected(POSTS, 7))
        shared = await get_result(stack, f"{paths[1]}/result?format={form}", If_None_Match=headers["ETag"])
        assert shared[0] == 304, "equal reports of unchanged posts have equal entity tags"
        assert rows_of(form, (await get_result(stack, f"{paths[0]}/histogram?format={form}"))[1]) == lengths
    page = (await stack.get(f"{paths[0]}/result?limit=3"))[1]
    following = (await stack.get(f"{paths[0]}/result?limit=3&cursor={page['next_cursor']}"))[1]
    users = [row["user_id"] for row in (*page["data"], *following["data"])]
    assert users == [user for user, _ in _expected(POSTS, 6)]
    summary = (await stack.get(paths[0]))[1]["summary"]
    assert (summary["posts"], summary["users"], summary["words"]) == (5000, 50, sum(words for _, words in _expected(POSTS)))


async def test_a_period_and_users(stack: Stack) -> None:
    chosen = [post for post in POSTS if post.user_id in (3, 4) and post.created_at.day == 1]
    path = await _completed(stack, **{"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z", "user_ids": [4, 3, 9999]})
    assert rows_of("csv", (await get_result(stack, f"{path}/result?format=csv"))[1]) == sorted(_expected(chosen))
    assert (await stack.get(f"{path}/histogram"))[0] == 404


async def test_the_stored_digest_is_that_of_the_csv_file(stack: Stack) -> None:
    path = await _completed(stack)
    body = (await get_result(stack, f"{path}/result?format=csv"))[1]
    stored = stack.rows("SELECT encode(sha256, 'hex') FROM report_results")
    assert stored == [(hashlib.sha256(body).hexdigest(),)]


async def test_the_command_has_the_same_parameters(stack: Stack) -> None:
    ordered = ("--order", "words", "--limit", "9", "--histogram", "--plot", "--top", "3")
    shown = await stack.command("report", *ordered)
    assert shown.returncode == 0, shown.stderr
    assert "Top 3 of 50 users" in shown.stdout and "Posts by their number of words" in shown.stdout
    period = ("--from", "2026-01-01", "--to", "2026-01-02", "--user-id", "3", "--user-id", "4")
    printed = await stack.command("report", *period, "--format", "csv")
    chosen = [post for post in POSTS if post.user_id in (3, 4) and post.created_at.day == 1]
    assert rows_of("csv", printed.stdout.encode()) == sorted(_expected(chosen))
