"""Completed reports, as a worker stores them: inserted by SQL, so no worker computes them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from uuid import UUID, uuid4

import psycopg2
from psycopg2.extras import execute_values

from jobs.reports import ReportParameters
from tests.support.factories import new_id

SNAPSHOT = "2026-11-22T04:00:00.123Z"
Pairs = Sequence[tuple[int, int]]

_JOB = """
INSERT INTO jobs (id, client_id, kind, provider, priority, destination, body, status, version, attempts, claim_token,
    created_at, finished_at, progress_done)
VALUES (%s, %s, 'report', NULL, 'normal', NULL, %s, 'completed', 3, 1, %s, now() - interval '3.2 s', now(), %s)
"""
_RESULT = """
INSERT INTO report_results (job_id, claim_token, posts, users, words, snapshot_at, parameters, histogram, sha256)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


def insert_result(
    url: str,
    totals: Mapping[int, int],
    parameters: ReportParameters | None = None,
    *,
    histogram: Pairs | None = None,
    client_id: str = "default",
) -> UUID:
    """The id of a new completed report with these words by user id. Without `parameters`, an older release completed it."""
    id_, token = new_id(), str(uuid4())
    by_words = parameters is not None and parameters.order == "words"
    rows = sorted(totals.items(), key=(lambda row: (-row[1], row[0])) if by_words else lambda row: row)
    posts = sum(count for _, count in histogram or ()) or 2 * len(totals)
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(_JOB, (str(id_), client_id, parameters and parameters.to_body(), token, posts))
        places = [(str(id_), token, user_id, words, n if by_words else None) for n, (user_id, words) in enumerate(rows)]
        execute_values(
            cursor, "INSERT INTO report_totals (job_id, claim_token, user_id, total_words, position) VALUES %s", places
        )
        if parameters is not None:
            pairs = None if histogram is None else json.dumps([list(pair) for pair in histogram])
            sums = (posts, len(totals), sum(totals.values()), SNAPSHOT)
            digest = hashlib.sha256(repr(rows).encode()).digest()
            cursor.execute(_RESULT, (str(id_), token, *sums, parameters.to_json(), pairs, digest))
    connection.close()
    return id_
