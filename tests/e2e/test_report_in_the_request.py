"""`GET /api/1.0/report/posts` and the command that fills the posts."""

import asyncio

import pytest

from infra.postgres.pool import DatabasePool
from infra.postgres.posts import Posts, texts
from jobs.words import count_words
from tests.support.stack import Stack

PATH = "/api/1.0/report/posts"


@pytest.mark.reuses_stack
async def test_the_report_of_no_posts_is_empty(stack: Stack) -> None:
    assert await stack.get(PATH) == (200, {"data": []})
    async with stack.session.post(stack.base + PATH) as response:
        assert (response.status, set(response.headers["Allow"].split(", "))) == (405, {"GET", "HEAD"})


@pytest.mark.reuses_stack
async def test_the_report_adds_up_every_post_by_user(stack: Stack) -> None:
    seeded = await stack.command("posts", "seed", "--count", "5000", "--users", "50", "--words", "5:15", "--seed", "7")
    assert seeded.returncode == 0, seeded.stderr
    code, answer = await stack.get(PATH)
    assert code == 200
    expected: dict[int, int] = {}
    pool = DatabasePool(stack.database, name="test", threads=1, scans=True)
    with pool.engine.connect() as connection:
        for user, text in texts(connection):
            expected[user] = expected.get(user, 0) + count_words(text)
    pool.close()
    assert answer["data"] == [{"user_id": user, "total_words": expected[user]} for user in sorted(expected)]
    assert len(expected) == 50


async def test_many_reports_at_once_are_answered_or_refused_as_busy_and_messages_continue(stack: Stack) -> None:
    await stack.command("posts", "seed", "--count", "5000")
    sending = asyncio.create_task(stack.submit())
    answers = await asyncio.gather(*(stack.get(PATH) for _ in range(40)))
    codes = [code for code, _ in answers]
    assert set(codes) <= {200, 503} and codes.count(200) >= 2
    assert {answer["code"] for code, answer in answers if code == 503} <= {"busy"}
    assert {str(answer) for code, answer in answers if code == 200} == {str((await stack.get(PATH))[1])}
    await stack.becomes(await sending, "sent")


async def test_without_postgres_the_report_is_503(stack: Stack) -> None:
    await stack.proxies["postgres"].refuse()
    code, answer = await stack.get(PATH)
    assert (code, answer["code"]) == (503, "unavailable")


@pytest.mark.reuses_stack
async def test_the_command_asks_and_explains(stack: Stack) -> None:
    assert (await stack.command("posts", "seed", "--count", "10")).returncode == 0
    refused = await stack.command("posts", "truncate")
    assert refused.returncode == 2
    assert Posts(stack.database).stats().posts == 10
    assert "10 of" in (await stack.command("posts", "stats")).stdout
    assert (await stack.command("posts", "truncate", "--yes")).returncode == 0
    assert Posts(stack.database).stats().posts == 0
    wrong = await stack.command("posts", "seed", "--words", "100:10")
    assert wrong.returncode == 2 and "--words" in wrong.stderr
