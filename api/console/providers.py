"""The page of providers: breaker and pause, backlog, calls; pause, resume and move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import structlog
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from api.callers import caller_of
from api.console.overview import Feed
from api.console.pages import Pages, is_fragment, see_other, viewer_of
from api.console.sampling import Sample
from api.console.streams import Streams, event_of
from api.problems import Problem
from infra.errors import Transient
from infra.postgres.newest import ProviderCalls
from infra.postgres.providers import BATCH, ProviderStore
from service.figures import Figures, ProcessFigures, QueueFigures
from service.moves import CALL_SECONDS, move_some
from service.provider_settings import ProviderSettings

log = structlog.get_logger()

PATH = "/console/providers"


@dataclass(frozen=True, slots=True)
class ProviderView:
    """One provider. `host` None: it is not configured. `breakers`: the state in each worker. `calls`: the recent ones."""

    name: str
    host: str | None
    paused_at: datetime | None
    breakers: list[tuple[ProcessFigures, str]]
    queues: list[QueueFigures]
    calls: ProviderCalls | None

    @property
    def state(self) -> str | None:
        """The state that decides whether the provider gets messages; None if no worker reports one."""
        if self.paused_at is not None:
            return "paused"
        states = {state for _, state in self.breakers}
        return next((state for state in ("open", "half-open", "closed") if state in states), None)


@dataclass(eq=False)
class ProviderPages:
    """The endpoints of providers. `configured`: by name; `calls`: a sample of the recent calls."""

    pages: Pages
    feed: Feed
    streams: Streams
    store: ProviderStore
    calls: Sample[dict[str, ProviderCalls]]
    configured: Mapping[str, ProviderSettings]

    async def show(self, request: Request) -> Response:
        return self.pages.show(request, "providers.html", **await self._values(await self.feed.read()))

    async def events(self, request: Request) -> Response:
        """Each sample as a fragment of the page."""
        viewer, token = viewer_of(request), request.scope["posthaste.form_token"]

        async def render(figures: Figures) -> list[ServerSentEvent]:
            values = await self._values(figures)
            return [event_of("now", self.pages.fragment("providers.html", "now", form_token=token, **values))]

        return self.streams.open(viewer, self.streams.follow(viewer, self.feed.watch(), render, self.pages.signed_out))

    async def _values(self, figures: Figures) -> dict[str, Any]:
        calls: dict[str, ProviderCalls] | None
        try:
            calls = await self.calls.read()
        except Transient:
            calls = None
        providers = views(figures, calls or {}, self.configured)
        return {"figures": figures, "providers": providers, "has_calls": calls is not None}

    async def pause(self, request: Request) -> Response:
        """Pause a provider. A repeated form changes nothing."""
        name = await self._named(request)
        if await self.store.pause(name, CALL_SECONDS):
            log.info("provider.paused", provider=name, by=caller_of(request).prefix)
        return see_other(PATH)

    async def resume(self, request: Request) -> Response:
        """Resume a provider. One that is no longer configured may be paused still."""
        name = str((await request.form()).get("provider", ""))
        if await self.store.resume(name, CALL_SECONDS):
            log.info("provider.resumed", provider=name, by=caller_of(request).prefix)
        return see_other(PATH)

    async def preview_move(self, request: Request) -> Response:
        """The exact number of messages that wait, and the providers that can take them."""
        old = request.query_params.get("old", "")
        total = await self.store.waiting(old, CALL_SECONDS)
        return self._move_page(request, old, None, total)

    async def move(self, request: Request) -> Response:
        """Move the next messages, oldest first, and no more than the preview counted."""
        form = await request.form()
        old, new = str(form.get("old", "")), str(form.get("new", ""))
        total, moved = _whole(form.get("total")), _whole(form.get("moved"))
        if new not in self.configured or new == old:
            raise Problem(422, "validation", "Choose another provider that is configured.")
        if form.get("stop") == "yes":
            return self._move_page(request, old, None, await self.store.waiting(old, CALL_SECONDS))
        count = await move_some(self.store, old, new, min(BATCH, max(0, total - moved)))
        log.info("provider.moved", provider=old, to=new, jobs=count, by=caller_of(request).prefix)
        return self._move_page(request, old, new, total, moved + count, over=count == 0 or moved + count >= total)

    def _move_page(
        self, request: Request, old: str, new: str | None, total: int, moved: int = 0, *, over: bool = False
    ) -> Response:
        others = [name for name in sorted(self.configured) if name != old]
        values: dict[str, Any] = {
            "old": old,
            "new": new,
            "total": total,
            "moved": moved,
            "over": over,
            "others": others,
            "batch": BATCH,
        }
        if is_fragment(request):
            token = request.scope.get("posthaste.form_token", "")
            return self.pages.show(request, "provider_move.html", block="run", form_token=token, **values)
        return self.pages.show(request, "provider_move.html", **values)

    async def _named(self, request: Request) -> str:
        name = str((await request.form()).get("provider", ""))
        if name not in self.configured:
            raise Problem(404, "not_found", "There is no configured provider with this name.")
        return name


def views(
    figures: Figures, calls: Mapping[str, ProviderCalls], configured: Mapping[str, ProviderSettings]
) -> list[ProviderView]:
    """Every provider that is configured, paused, or has waiting messages."""
    paused = figures.ledger.paused if figures.ledger else {}
    queues = [queue for queue in figures.ledger.queues if queue.name.count(".") == 2] if figures.ledger else []
    names = {*configured, *paused, *(queue.name.split(".")[1] for queue in queues)}
    return [_view(name, figures.processes, paused, queues, calls, configured) for name in sorted(names)]


def _view(
    name: str,
    processes: Sequence[ProcessFigures],
    paused: Mapping[str, datetime],
    queues: Sequence[QueueFigures],
    calls: Mapping[str, ProviderCalls],
    configured: Mapping[str, ProviderSettings],
) -> ProviderView:
    host = urlsplit(configured[name].url).netloc.rpartition("@")[2] if name in configured else None
    breakers = [(each, each.breakers[name]) for each in processes if name in each.breakers]
    own = [queue for queue in queues if queue.name.split(".")[1] == name]
    return ProviderView(name, host, paused.get(name), breakers, own, calls.get(name))


def _whole(value: object) -> int:
    """A whole number of a form. Raises a 422 problem for other texts."""
    if not isinstance(value, str) or not value.isascii() or not value.isdecimal() or len(value) > 12:
        raise Problem(422, "validation", "The form has no valid number. Open the page again.")
    return int(value)
