"""Numbers of posts: counted, and estimated before and after ANALYZE."""

from datetime import UTC, datetime, timedelta

from infra.postgres.posts import Post, Posts
from infra.postgres.posts_stats import Stats
from tests.support.services import sql
from tests.support.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POSTS = [Post(n % 30, "two words", NOW + timedelta(seconds=n)) for n in range(3_000)]


def _insert(database: str, count: int) -> None:
    sql(database, f"INSERT INTO posts (user_id, context, created_at) SELECT n, 'a', now() FROM generate_series(1, {count}) n")


async def test_a_count_and_an_estimate_after_analyze(database: str) -> None:
    posts = Posts(database)
    posts.fill(POSTS)
    assert posts.stats() == Stats(3_000, 30, POSTS[0].created_at, POSTS[-1].created_at)
    estimate = await until(posts.estimate, lambda stats: stats.analyzed_at is not None)
    analyzed = estimate.analyzed_at
    assert estimate == Stats(3_000, 30, POSTS[0].created_at, POSTS[-1].created_at, True, analyzed)


def test_there_is_no_estimate_before_analyze_and_after_truncate(database: str) -> None:
    posts = Posts(database)
    _insert(database, 10)
    assert posts.estimate() == Stats(None, None, None, None, True)
    posts.analyze()
    assert posts.estimate().posts == 10
    posts.truncate()
    assert posts.estimate().posts == 0
    _insert(database, 10)
    assert posts.estimate().posts is None


def test_an_estimate_grows_with_the_table(database: str) -> None:
    posts = Posts(database)
    posts.fill(POSTS)
    _insert(database, 30_000)
    assert 20_000 < (posts.estimate().posts or 0) < 50_000


def test_distinct_users_may_be_a_share_of_the_posts(database: str) -> None:
    posts = Posts(database)
    posts.fill(Post(n, "a", NOW) for n in range(1_000))
    assert posts.estimate().users == 1_000
