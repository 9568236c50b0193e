"""`make bench`: run the benchmarks on the services of `make services`, each with its own database and namespace."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.console import beside_ten_million
from benchmarks.counting import ways_to_count
from benchmarks.lists import ten_million
from benchmarks.memory import steady_load
from benchmarks.overload import four_times_too_much
from benchmarks.processor import processor_of_a_request
from benchmarks.providers import one_of_two_hangs
from benchmarks.queues import stream_or_rabbitmq
from benchmarks.reports import all_of_reports, messages_while_reports_run
from benchmarks.result_files import whole_results
from benchmarks.waiting import thousands_wait
from benchmarks.watchers import nobody_watches
from infra import logs
from service.settings import Settings, load

Benchmark = Callable[[Settings], Coroutine[Any, Any, None]]

EXPLICIT: dict[str, Benchmark] = {
    "lists": ten_million,
    "console": beside_ten_million,
    "memory": steady_load,
    "results": whole_results,
    "counting": ways_to_count,
}  # take minutes and gigabytes: only by name
DEFAULT: dict[str, Benchmark] = {
    "queues": stream_or_rabbitmq,
    "reports": all_of_reports,
    "isolation": messages_while_reports_run,
    "providers": one_of_two_hangs,
    "waiting": thousands_wait,
    "watchers": nobody_watches,
    "overload": four_times_too_much,
    "processor": processor_of_a_request,
}


def main() -> int:
    """Run the benchmarks named on the command line, else the default ones. Exit 2: an unknown name."""
    benchmarks = DEFAULT | EXPLICIT
    names = sys.argv[1:] or list(DEFAULT)
    if unknown := set(names) - set(benchmarks):
        print(f"unknown: {', '.join(sorted(unknown))}; the benchmarks are {', '.join(benchmarks)}", file=sys.stderr)
        return 2
    settings = load()
    logs.configure("error", json=False)
    print(f"{os.cpu_count()} processors, services and clients on one machine")
    for name in names:
        asyncio.run(benchmarks[name](settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
