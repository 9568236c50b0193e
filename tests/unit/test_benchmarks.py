"""The pure parts of the comparison with peers: reading wrk, figures from arrivals, medians, ratios, report and chart."""

from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.peers.__main__ import BEGIN, END, with_results
from benchmarks.peers.chart import chart
from benchmarks.peers.costs import Cost, milliseconds_each
from benchmarks.peers.measures import (
    back_after,
    first_arrivals,
    latencies_ms,
    lost,
    middle_rate,
    quantile,
    rate_between,
    twice,
)
from benchmarks.peers.report import markdown, number, table
from benchmarks.peers.summary import Spread, best, figure, ratio, spread
from benchmarks.peers.wrk import parse

WRK = """\
Running 2s test @ http://127.0.0.1:31999/messages
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     8.32ms   20.87ms 148.53ms   94.86%
    Req/Sec    16.20k     3.92k   19.82k    95.00%
  Latency Distribution
     50%  850.00us
     75%    4.20ms
     90%    8.12ms
     99%    1.25s{space}
  32585 requests in 2.10s, 2.05MB read
{more}Requests/sec:  15545.77
Transfer/sec:      0.98MB
"""


def test_the_output_of_wrk_is_read() -> None:
    load = parse(WRK.format(more="", space=" ") + 'statuses {"202":32000,"503":585}\n')
    assert (load.per_second, load.requests, load.p50_ms, load.p99_ms) == (15545.77, 32585, 0.85, 1250.0)
    assert (load.rejected, load.errors, load.statuses) == (0, 0, {"202": 32000, "503": 585})


def test_errors_of_wrk_are_read() -> None:
    more = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 585\n"
    load = parse(WRK.format(more=more, space=""))
    assert (load.rejected, load.errors, load.statuses) == (585, 10, {})


def test_an_incomplete_output_of_wrk_is_refused() -> None:
    with pytest.raises(ValueError, match="no result of wrk"):
        parse("unable to connect to 127.0.0.1:31999 Connection refused\n")


def test_arrivals_are_counted_once_a_message() -> None:
    arrivals = {"a": [3.0, 4.0], "b": [1.0], "c": [2.0]}
    assert first_arrivals(arrivals) == [1.0, 2.0, 3.0]
    assert (lost(["a", "b", "d", "e"], arrivals), twice(arrivals)) == (2, 1)
    assert latencies_ms({"a": 2.5, "d": 1.0}, arrivals) == [500.0]


def test_rates_of_arrivals() -> None:
    times = [n / 10 for n in range(100)]
    assert middle_rate(times) == pytest.approx(10)
    assert middle_rate([0.0, 1.0]) == 0.0
    assert rate_between(times, 2.0, 4.0) == pytest.approx(10)


def test_middle_rate_ignores_a_slow_start_and_end() -> None:
    assert middle_rate([-50.0, *(n / 10 for n in range(98)), 90.0]) == pytest.approx(10)


def test_deliveries_are_back_after_those_under_way_at_the_kill() -> None:
    assert back_after([9.0, 10.0, 10.1, 13.0, 13.1], killed=10.0) == pytest.approx(3.0)
    assert back_after([9.0, 10.1], killed=10.0) is None


def test_quantiles() -> None:
    assert quantile([float(n) for n in range(101)], 99) == pytest.approx(99)
    assert quantile([7.0], 50) == 7.0


def test_processor_time_per_message_is_that_of_the_interval() -> None:
    before = {"api": Cost(1.0, 0, 1)}
    after = {"api": Cost(3.0, 0, 1), "worker": Cost(1.0, 0, 1)}
    assert milliseconds_each(before, after, 1000) == {"api": 2.0}


def _run(system: str, repeat: int, **figures: float) -> dict[str, Any]:
    return {"system": system, "repeat": repeat, "load": 1.0, "busy": 0.05, "figures": figures}


RUNS = [
    _run("bare", 0, accept_per_second=10_000),
    _run("posthaste", 0, accept_per_second=3_000),
    _run("one", 0, accept_per_second=1_000, latency_p50_ms=2.0),
    _run("two", 0, accept_per_second=1_500, latency_p50_ms=3.0),
    _run("bare", 1, accept_per_second=8_000),
    _run("posthaste", 1, accept_per_second=4_000),
    _run("one", 1, accept_per_second=1_200),
    _run("two", 1),
]


def test_median_and_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([]) is None
    assert figure(RUNS, "bare", "accept_per_second") == Spread(9_000, 8_000, 10_000)
    assert figure(RUNS, "bare", "status_per_second") is None


def test_a_ratio_divides_within_a_repeat() -> None:
    assert ratio(RUNS, "posthaste", "bare", "accept_per_second") == Spread((0.3 + 0.5) / 2, 0.3, 0.5)
    assert ratio(RUNS, "posthaste", "two", "accept_per_second") == Spread(2.0, 2.0, 2.0)
    assert ratio(RUNS, "posthaste", "bare", "latency_p50_ms") is None


def test_the_best_peer_has_the_best_median() -> None:
    assert best(RUNS, ["one", "two"], "accept_per_second", higher_is_better=True) == "two"
    assert best(RUNS, ["one", "two"], "latency_p50_ms", higher_is_better=False) == "one"
    assert best(RUNS, ["one", "two"], "status_per_second", higher_is_better=True) is None


def test_numbers_and_tables() -> None:
    assert number(None, 0) == "-"
    assert number(Spread(1234.5, 1000, 2000), 0) == "1,234 (1,000 to 2,000)"
    assert number(Spread(0.5, 0.5, 0.5), 2) == "0.50"
    assert table(["", "a/s"], [["one", "1"]]) == "|  | a/s |\n| --- | ---: |\n| one | 1 |"


def _results() -> dict[str, Any]:
    def system(title: str, queue: str, is_peer: bool) -> dict[str, Any]:
        return {"title": title, "queue": queue, "settings": f"Settings of {title}.", "is_peer": is_peer}

    failed = {**_run("two", 2), "error": "CannotStart: no port"}
    return {
        "began": "2026-01-02T03:04:05+00:00",
        "minutes": 12.5,
        "options": {"repeats": 2, "seconds": 5.0},
        "machine": {"processors": 2, "model": "A & B", "memory_gb": 8, "system": "Linux 6"},
        "versions": {"Python": "3.11"},
        "postgres": {"fsync": "on"},
        "systems": {
            "bare": system("bare route", "", False),
            "posthaste": system("Posthaste", "RabbitMQ", False),
            "one": system("One <1>", "RabbitMQ", True),
            "two": system("Two", "Postgres", True),
        },
        "runs": [*RUNS, failed],
    }


def test_the_report_compares_with_the_best_peer_on_rabbitmq() -> None:
    report = markdown(_results())
    assert "| accepted/s | 0.40 (0.30 to 0.50) | 3.17 (3.00 to 3.33) | One <1> |" in report
    assert "Other work took 5% to 5% of the processors before each run." in report
    assert "two failed in repeat 3: CannotStart: no port" in report
    assert "| Posthaste | Settings of Posthaste. |" in report
    assert "Postgres: `fsync` on." in report


def test_the_chart_is_well_formed_and_has_a_bar_for_each_figure() -> None:
    drawn = ElementTree.fromstring(chart(_results()))
    bars = list(drawn.iter("{http://www.w3.org/2000/svg}rect"))[1:]  # the first is the background
    assert len(bars) == 6
    assert "One <1>" in [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]


def test_results_replace_what_stands_between_the_marks() -> None:
    page = f"prose\n{BEGIN}\nold\n{END}\nmore\n"
    assert with_results(page, "new") == f"prose\n{BEGIN}\n\nnew\n\n{END}\nmore\n"
    with pytest.raises(ValueError, match="needs the lines"):
        with_results("prose", "new")
