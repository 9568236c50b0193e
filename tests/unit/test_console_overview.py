"""The overview's summary of one sample, its chart, and its stream: one rendering for all viewers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from sse_starlette import ServerSentEvent
from starlette.requests import Request

from api.callers import Caller
from api.console.assets import load_assets
from api.console.charts import HEIGHT, WIDTH, rate_chart
from api.console.overview import Overview, summarize
from api.console.pages import Pages
from api.console.sessions import Viewer
from api.console.streams import Streams
from infra.keys import Scope
from infra.postgres.figures import DeadLetterFigures, LedgerFigures, QueueFigures
from service.figures import COUNT_LIMIT, Figures, ProcessFigures, Rates

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def _rates(seconds_ago: float, accepted: float) -> Rates:
    return Rates(NOW - timedelta(seconds=seconds_ago), accepted, accepted / 2, 0.0, 0.0, 0.05, 0.2)


def _worker(pid: int, state: str, in_flight: int = 2, role: str = "worker") -> ProcessFigures:
    return ProcessFigures(str(pid), role, "host", pid, NOW, NOW, in_flight, {"sandbox": state} if role == "worker" else {})


def _ledger(*waiting: int, letters: int = 0) -> LedgerFigures:
    queues = [QueueFigures(f"q{n}", number, 1.0) for n, number in enumerate(waiting)]
    dead = [DeadLetterFigures("message", "sandbox", "http_400", letters)] if letters else []
    return LedgerFigures(NOW, queues, dead, 3, 0, None, {"other": NOW})


def test_the_summary_adds_up_what_is_known() -> None:
    processes = [_worker(1, "closed"), _worker(2, "open", 3), _worker(3, "closed"), _worker(4, "", role="api")]
    summary = summarize(Figures(NOW, _ledger(5, 7, letters=4), processes, [_rates(20, 1), _rates(10, 2)]))
    assert (summary.workers, summary.in_flight, summary.waiting, summary.dead_letters) == (3, 7, 12, 4)
    assert summary.latest == _rates(10, 2)
    sandbox, other = reversed(summary.providers)
    assert (sandbox.name, sandbox.breakers, sandbox.paused_at) == ("sandbox", {"closed": 2, "open": 1}, None)
    assert (other.name, other.breakers, other.paused_at) == ("other", {}, NOW)


def test_nothing_is_made_up_for_services_that_are_down() -> None:
    summary = summarize(Figures(NOW, None, down={"redis": "refused", "postgres": "refused"}))
    assert (summary.workers, summary.in_flight, summary.waiting, summary.dead_letters, summary.latest) == (None,) * 5
    assert summary.providers == []


def test_sums_of_bounded_counts_are_bounded() -> None:
    for counts in ((COUNT_LIMIT, 1), (6000, 6000)):
        assert summarize(Figures(NOW, _ledger(*counts))).waiting == COUNT_LIMIT


def test_the_chart_spans_an_hour_and_its_highest_rate() -> None:
    chart = rate_chart([_rates(3600, 10), _rates(1800, 20), _rates(0, 0)], NOW)
    accepted, sent, failed = (line.points.split() for line in chart.lines)
    assert accepted[1] == f"{WIDTH / 2:.1f},4.0" and accepted[0].startswith("0.0,") and accepted[2] == f"{WIDTH},{HEIGHT}"
    assert sent[1] == f"{WIDTH / 2:.1f},{HEIGHT - (HEIGHT - 4) / 2:.1f}" and failed[1].endswith(f",{HEIGHT}")
    assert chart.top == 20 and chart.data["sent"] == [5, 10, 0] and chart.data["at"][2] == NOW.timestamp()
    assert [line.points for line in rate_chart([], NOW).lines] == ["", "", ""]
    assert rate_chart([_rates(5, 0)], NOW).top == 0


class Samples:
    """A feed with the given samples."""

    def __init__(self, *samples: Figures):
        self._samples = samples

    async def read(self) -> Figures:
        return self._samples[0]

    async def watch(self) -> AsyncIterator[Figures]:
        for sample in self._samples:
            yield sample
            await asyncio.sleep(0)


class CountingPages(Pages):
    """Counts the fragments that are rendered."""

    rendered = 0

    def fragment(self, template: str, block: str, **values: object) -> str:
        self.rendered += 1
        return super().fragment(template, block, **values)


async def _events(overview: Overview, viewer: Viewer) -> list[ServerSentEvent]:
    return [event async for event in overview._stream(Request({"type": "http", "headers": [], "posthaste.viewer": viewer}))]


def _viewer(*, usable: bool = True) -> Viewer:
    return Viewer(Caller("shop", frozenset({Scope.MESSAGES_READ}), "ph_aaaaaaaa", "hash", usable), "token")


async def test_each_sample_is_rendered_once_for_all_viewers() -> None:
    samples = [Figures(NOW, _ledger(n), rates=[_rates(0, 1), _rates(10, 1)]) for n in (1, 2)]
    pages = CountingPages(load_assets(), [])
    overview = Overview(pages, Samples(*samples), Streams(10, lambda: False))
    streams = await asyncio.gather(*(_events(overview, _viewer()) for _ in range(10)))
    assert all([event.event for event in stream] == ["now", "rates", "details"] * 2 for stream in streams)
    assert pages.rendered == 6


async def test_the_page_is_whole_without_any_figure_and_with_each() -> None:
    empty = Figures(NOW, None, down=dict.fromkeys(("redis", "postgres", "rabbitmq"), "refused"))
    full = Figures(NOW, _ledger(1, letters=1), [_worker(1, "open")], [_rates(10, 1), _rates(0, 1)])
    overview = Overview(Pages(load_assets(), []), Samples(empty, Figures(NOW, None), full), Streams(10, lambda: False))
    texts = [str(event.data) for event in await _events(overview, _viewer())]
    for title in ("Redis does not answer", "RabbitMQ does not answer", "Postgres does not answer"):
        assert title in texts[0]
    assert "Redis stores the rates" in texts[1] and "No rates yet" in texts[4] and "<polyline" in texts[7]
    assert "<code>http_400</code>" in texts[8] and "status-open" in texts[8] and "status-paused" in texts[8]


async def test_a_stream_ends_with_its_session_or_process() -> None:
    overview = Overview(Pages(load_assets(), []), Samples(Figures(NOW, None)), Streams(10, lambda: False))
    notice, last = await _events(overview, _viewer(usable=False))
    assert "Sign in again" in str(notice.data) and last.event == "ended"
    overview = Overview(Pages(load_assets(), []), Samples(Figures(NOW, None)), Streams(10, lambda: True))
    assert await _events(overview, _viewer()) == []
