"""One measured process of `benchmarks.report_computing`: `python -m benchmarks.report_process MODE DATABASE_URL`.

It prints one line of JSON: `seconds` of the work without the start of Python, `peak_mb` of each process, and what was counted.
Each lane imports this module, too, so what only some modes need is imported in their functions.
"""

import hashlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, cast

import psycopg2

if TYPE_CHECKING:
    from consumers.reports.keeping import Keepers
    from consumers.reports.lanes import ProcessLanes

GROUP_BY = r"""
SELECT user_id, sum(coalesce(array_length(regexp_split_to_array(nullif(btrim(context, E' \t\n\r\f\v'), ''), '\s+'), 1), 0))
FROM posts GROUP BY user_id ORDER BY user_id
"""


class Nothing(io.RawIOBase):
    """Throws away what it gets."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return len(data)


def _copy(url: str, columns: str, to: Any) -> None:
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY (SELECT {columns} FROM posts) TO STDOUT", to)  # noqa: S608  constants


def floor(url: str) -> dict[str, Any]:
    """COPY on one connection, drained and thrown away."""
    _copy(url, "user_id, context", io.BufferedWriter(Nothing(), 1 << 20))
    return {}


def loop(url: str) -> dict[str, Any]:
    """Version 1.0: a cursor and `str.split`."""
    import asyncio

    import infra  # noqa: F401  first, as in the API: see there
    from infra.postgres.pool import DatabasePool
    from infra.postgres.posts import texts
    from infra.supervision import collect_rarely
    from jobs.words import total_words

    collect_rarely()

    async def count() -> dict[int, int]:
        pool = DatabasePool(url, name="benchmark", threads=1, scans=True, statement_seconds=600)
        return await pool.call(lambda connection: total_words(texts(connection)), 600)

    return _counted(list(asyncio.run(count()).items()))


def sql(url: str) -> dict[str, Any]:
    """The statement that a database administrator would write."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(GROUP_BY)
        return _counted([(user, int(words)) for user, words in cursor.fetchall()])


def wc(url: str) -> dict[str, Any]:
    """`wc -w` on all texts: right for ASCII without escapes."""
    with subprocess.Popen(["wc", "-w"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        _copy(url, "context", process.stdin)
        process.stdin.close()
        return {"words": int(process.stdout.read())}


def lanes(url: str) -> dict[str, Any]:
    """Version 2.0: a report with two lanes, twice. The second one finds the lanes started.

    The lanes' server and the spare keeper start first, and import while this process imports the rest. A worker starts them
    after its imports, and then connects before it has a report.
    """
    import asyncio

    from consumers.reports.lanes import ProcessLanes

    processes = ProcessLanes(int(os.environ.get("LANES", "2")), url)

    import infra  # noqa: F401  first, as in a worker: see there
    from consumers.reports.keeping import Keepers

    return asyncio.run(_reports(url, processes, Keepers(url, 3600, spare=True)))


async def _reports(url: str, processes: "ProcessLanes", keepers: "Keepers") -> dict[str, Any]:
    from uuid import uuid4

    from uuid_utils.compat import uuid7

    from consumers.reports.run import Reporter
    from infra.postgres.ledger import Ledger
    from infra.postgres.pool import DatabasePool
    from infra.postgres.report_results import ReportResults
    from infra.postgres.report_runs import ReportRuns
    from infra.postgres.totals import Totals
    from infra.postgres.transitions.claim import ClaimRequest
    from infra.supervision import collect_rarely
    from jobs.model import REPORTS, NewJob, Progress

    collect_rarely()

    pool = DatabasePool(url, name="benchmark", threads=4)
    ledger = Ledger(pool, grace_seconds=600)
    reporter = Reporter(ReportRuns(pool), ReportResults(pool), Totals(pool), keepers, processes, 3600)
    seconds = []
    for _ in range(2):
        new = NewJob(uuid7(), "benchmark", REPORTS)
        await ledger.accept([new], 10)
        (job,) = await ledger.claim([ClaimRequest(new.id, 1, uuid4(), 3600)], 10)
        assert job is not None
        started = time.perf_counter()
        outcome = await reporter.compute(job, Progress())
        seconds.append(time.perf_counter() - started)
        assert outcome.reason is None, outcome
    peaks = {"itself": _peak(os.getpid())}  # before it reads the totals
    peaks |= {f"lane {n}": _peak(child.pid) for n, child in enumerate(multiprocessing.active_children(), 1)}
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT user_id, total_words FROM report_totals WHERE job_id = %s ORDER BY 1", (str(new.id),))
        rows = cast(list[tuple[int, int]], cursor.fetchall())
    reporter.close()
    pool.close()
    return {**_counted(rows), "cold": seconds[0], "warm": seconds[1], "peaks": peaks}


def _peak(pid: int | None) -> float:
    """The peak memory of a process, in MB. That of getrusage(2) begins with the memory of the process that started it."""
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def _counted(rows: list[tuple[int, int]]) -> dict[str, Any]:
    """The words of all users, and a digest of each user's."""
    return {"words": sum(words for _, words in rows), "digest": hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()}


MODES = {each.__name__: each for each in (floor, loop, sql, wc, lanes)}


def main() -> None:
    started = time.perf_counter()
    result = MODES[sys.argv[1]](sys.argv[2])
    result["seconds"] = time.perf_counter() - started
    peaks = {"itself": _peak(os.getpid()), **result.pop("peaks", {})}
    print(json.dumps({**result, "peak_mb": {name: round(peak, 1) for name, peak in peaks.items()}}))


if __name__ == "__main__":
    main()
