"""Numbers of posts and users: counted, or estimated by Postgres."""

from dataclasses import dataclass
from datetime import datetime

import psycopg2.extensions


@dataclass(frozen=True, slots=True)
class Stats:
    """Numbers of posts and users, and the instants of the oldest and the newest post: None if there are no posts.

    An estimate has None for everything that Postgres does not know, too. `analyzed_at` is the instant of the ANALYZE from
    which it comes; None: unknown, or this is a count.
    """

    posts: int | None
    users: int | None
    oldest: datetime | None
    newest: datetime | None
    is_estimate: bool = False
    analyzed_at: datetime | None = None


_COUNT = "SELECT count(*), count(DISTINCT user_id), min(created_at), max(created_at) FROM posts"

# `reltuples` is -1 before the first ANALYZE and after a TRUNCATE. As in the planner, the rows have grown with the pages since.
_ESTIMATE = """
WITH size AS (
    SELECT oid, relname, relnamespace::regnamespace::text AS schema, reltuples, relpages,
        pg_relation_size(oid) / current_setting('block_size')::int AS pages
    FROM pg_class WHERE oid = 'posts'::regclass
), statistics AS (
    SELECT attname, n_distinct, histogram_bounds::text AS bounds
    FROM pg_stats JOIN size ON (schemaname, tablename) = (schema, relname) WHERE attname IN ('user_id', 'created_at')
)
SELECT
    CASE WHEN pages = 0 THEN 0 WHEN reltuples >= 0 AND relpages > 0 THEN reltuples / relpages * pages END,
    (SELECT n_distinct FROM statistics WHERE attname = 'user_id'),
    (SELECT bounds::timestamptz[] FROM statistics WHERE attname = 'created_at'),
    (SELECT greatest(last_analyze, last_autoanalyze) FROM pg_stat_user_tables WHERE relid = oid)
FROM size
"""


def count_posts(cursor: psycopg2.extensions.cursor) -> Stats:
    """Read and count all posts."""
    cursor.execute(_COUNT)
    (row,) = cursor.fetchall()
    return Stats(*row)


def estimate_posts(cursor: psycopg2.extensions.cursor) -> Stats:
    """Read the statistics of the last ANALYZE."""
    cursor.execute(_ESTIMATE)
    ((posts, distinct, instants, analyzed_at),) = cursor.fetchall()
    if not posts:
        return Stats(None if posts is None else 0, None if posts is None else 0, None, None, True, analyzed_at)
    users = distinct if distinct is None or distinct >= 0 else -distinct * posts  # below 0: a share of the posts
    oldest, newest = (instants[0], instants[-1]) if instants else (None, None)
    return Stats(round(posts), None if users is None else round(users), oldest, newest, True, analyzed_at)
