"""`make bench`: run the benchmarks on the services that `make services` found; each on a database and namespace of its own."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.lists import ten_million
from benchmarks.overload import four_times_too_much
from benchmarks.providers import one_of_two_hangs
from benchmarks.queues import stream_or_rabbitmq
from benchmarks.reports import in_the_request_or_as_a_job, messages_while_reports_run
from benchmarks.waiting import thousands_wait
from infra import logs
from service.settings import Settings, load

Benchmark = Callable[[Settings], Coroutine[Any, Any, None]]

BY_NAME: dict[str, Benchmark] = {"lists": ten_million}  # minutes and gigabytes: only when asked for
ALL: dict[str, Benchmark] = {
    "queues": stream_or_rabbitmq,
    "reports": in_the_request_or_as_a_job,
    "isolation": messages_while_reports_run,
    "providers": one_of_two_hangs,
    "waiting": thousands_wait,
    "overload": four_times_too_much,
}


def main() -> int:
    """Run those named, else all; 2 for a name that there is not."""
    names = sys.argv[1:] or list(ALL)
    if unknown := set(names) - set(ALL | BY_NAME):
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(ALL | BY_NAME)}", file=sys.stderr)
        return 2
    settings = load()
    logs.configure("error", json=False)
    print(f"{os.cpu_count()} processors, one machine for everything, clients included")
    for name in names:
        asyncio.run((ALL | BY_NAME)[name](settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
