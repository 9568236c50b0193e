"""The overview: the live state of the installation, sampled and rendered once for all viewers of this process."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import orjson
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from api.console.charts import RateChart, rate_chart
from api.console.pages import Pages, viewer_of
from api.console.streams import Streams, event_of
from service.figures import COUNT_LIMIT, Figures, LedgerFigures, ProcessFigures, Rates

_BLOCKS = ("now", "rates", "details")  # each one is an event of the stream, too


class Feed(Protocol):
    """The figures of the installation: one sample an interval for all viewers. No outage makes it fail."""

    async def read(self) -> Figures: ...
    def watch(self) -> AsyncIterator[Figures]: ...


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """One provider: its breakers that are not closed, by state, and the start of its pause."""

    name: str
    breakers: dict[str, int]
    paused_at: datetime | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One sample as the page shows it. Unknown numbers are None."""

    figures: Figures
    latest: Rates | None
    chart: RateChart
    workers: int | None
    in_flight: int | None
    waiting: int | None
    dead_letters: int | None
    providers: list[ProviderRow]


def summarize(figures: Figures) -> Summary:
    """Add up the figures."""
    workers = [each for each in figures.processes if each.role == "worker"]
    knows_processes, ledger = "redis" not in figures.down, figures.ledger
    return Summary(
        figures,
        figures.rates[-1] if figures.rates else None,
        rate_chart(figures.rates, figures.at),
        len(workers) if knows_processes else None,
        sum(each.in_flight for each in workers) if knows_processes else None,
        _total([queue.waiting for queue in ledger.queues]) if ledger else None,
        _total([group.count for group in ledger.dead_letters]) if ledger else None,
        _providers(workers, ledger),
    )


def _total(counts: list[int]) -> int:
    """The sum of bounded counts is bounded, too."""
    return COUNT_LIMIT if any(count >= COUNT_LIMIT for count in counts) else min(COUNT_LIMIT, sum(counts))


def _providers(workers: list[ProcessFigures], ledger: LedgerFigures | None) -> list[ProviderRow]:
    states: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for worker in workers:
        for provider, state in worker.breakers.items():
            states[provider][state] += 1
    paused = ledger.paused if ledger else {}
    return [ProviderRow(name, dict(states[name]), paused.get(name)) for name in sorted({*states, *paused})]


@dataclass(eq=False)
class Overview:
    """The page and its stream."""

    pages: Pages
    feed: Feed
    streams: Streams
    _rendered: tuple[Figures, list[ServerSentEvent]] | None = field(default=None, init=False)

    async def show(self, request: Request) -> Response:
        return self.pages.show(request, "overview.html", **_values(await self.feed.read()))

    async def events(self, request: Request) -> Response:
        """Each sample as fragments of the page. The last event `ended` says that the session is over."""
        return self.streams.open(viewer_of(request), self._stream(request))

    def _stream(self, request: Request) -> AsyncIterator[ServerSentEvent]:
        return self.streams.follow(viewer_of(request), self.feed.watch(), self._events, self.pages.signed_out)

    async def _events(self, figures: Figures) -> list[ServerSentEvent]:
        if self._rendered is None or self._rendered[0] is not figures:
            values = _values(figures)
            texts = {block: self.pages.fragment("overview.html", block, **values) for block in _BLOCKS}
            self._rendered = figures, [event_of(block, text) for block, text in texts.items()]
        return self._rendered[1]


def _values(figures: Figures) -> dict[str, Any]:
    summary = summarize(figures)
    return {"summary": summary, "figures": figures, "series": orjson.dumps(summary.chart.data).decode()}
