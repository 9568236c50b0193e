"""The one table of the console's routes. Starlette's routes, their guards and the navigation derive from it."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.console.assets import BASE, Assets
from api.console.bulk import BulkPages
from api.console.callbacks import CallbackPages
from api.console.dead_letters import DeadLetterPages
from api.console.gate import Endpoint, Gate, GuardedView
from api.console.keys import KeyPages
from api.console.messages import Messages
from api.console.overview import Overview
from api.console.pages import HOME, SIGN_IN, Entry, Pages
from api.console.providers import ProviderPages
from api.console.reports import ReportPages
from api.console.schedules import PATH as SCHEDULES
from api.console.schedules import SchedulePages
from api.console.search import PATH as MESSAGES
from api.console.search import Search
from api.console.settings import SettingsPage
from api.console.sign_in import SignIn
from api.problems import not_found
from infra.keys import Scope


@dataclass(frozen=True, slots=True)
class Views:
    """The endpoints of one process, by their nouns."""

    sign_in: SignIn
    overview: Overview
    search: Search
    messages: Messages
    dead_letters: DeadLetterPages
    bulk: BulkPages
    reports: ReportPages
    schedules: SchedulePages
    providers: ProviderPages
    callbacks: CallbackPages
    keys: KeyPages
    settings: SettingsPage


@dataclass(frozen=True, slots=True)
class View:
    """One route. `scope` None: for every key. `public`: without sign-in. `label`: its entry in the navigation."""

    method: str
    path: str
    endpoint: Callable[[Views], Endpoint]
    scope: Scope | None = None
    public: bool = False
    label: str | None = None

    def route(self, views: Views, gate: Gate) -> Route:
        endpoint = self.endpoint(views)
        guarded = gate.public(endpoint) if self.public else gate.signed_in(endpoint, self.scope)
        return Route(self.path.replace("{id}", "{id:job}"), guarded, methods=[self.method])


_LETTERS, _ADMIN = Scope.DEAD_LETTERS, Scope.ADMIN

VIEWS: list[View] = [
    View("GET", HOME, lambda to: to.overview.show, label="Overview"),
    View("GET", "/console/overview/events", lambda to: to.overview.events),
    View("GET", MESSAGES, lambda to: to.search.show, Scope.MESSAGES_READ, label="Messages"),
    View("GET", f"{MESSAGES}/{{id}}", lambda to: to.messages.show, Scope.MESSAGES_READ),
    View("GET", f"{MESSAGES}/{{id}}/events", lambda to: to.messages.events, Scope.MESSAGES_READ),
    View("POST", f"{MESSAGES}/{{id}}/requeue", lambda to: to.messages.requeue, Scope.DEAD_LETTERS),
    View("POST", f"{MESSAGES}/{{id}}/discard", lambda to: to.messages.discard, Scope.DEAD_LETTERS),
    View("GET", "/console/dead-letters", lambda to: to.dead_letters.show, _LETTERS, label="Dead letters"),
    View("GET", "/console/dead-letters/export", lambda to: to.dead_letters.export, _LETTERS),
    View("GET", "/console/dead-letters/requeue", lambda to: to.bulk.preview_requeue, _LETTERS),
    View("POST", "/console/dead-letters/requeue", lambda to: to.bulk.requeue, _LETTERS),
    View("GET", "/console/dead-letters/discard", lambda to: to.bulk.preview_discard, _LETTERS),
    View("POST", "/console/dead-letters/discard", lambda to: to.bulk.discard, _LETTERS),
    View("GET", "/console/dead-letters/canaries", lambda to: to.bulk.watch, _LETTERS),
    View("POST", "/console/dead-letters/canaries", lambda to: to.bulk.canaries, _LETTERS),
    View("GET", "/console/reports", lambda to: to.reports.list, Scope.REPORTS, label="Reports"),
    View("POST", "/console/reports", lambda to: to.reports.start, Scope.REPORTS),
    View("GET", SCHEDULES, lambda to: to.schedules.show, Scope.REPORTS),
    View("POST", SCHEDULES, lambda to: to.schedules.create, Scope.REPORTS),
    View("POST", f"{SCHEDULES}/delete", lambda to: to.schedules.delete, Scope.REPORTS),
    View("GET", "/console/reports/{id}", lambda to: to.reports.show, Scope.REPORTS),
    View("GET", "/console/reports/{id}/result", lambda to: to.reports.result, Scope.REPORTS),
    View("GET", "/console/reports/{id}/users.svg", lambda to: to.reports.users_chart, Scope.REPORTS),
    View("GET", "/console/reports/{id}/histogram.svg", lambda to: to.reports.histogram_chart, Scope.REPORTS),
    View("GET", "/console/providers", lambda to: to.providers.show, _ADMIN, label="Providers"),
    View("GET", "/console/providers/events", lambda to: to.providers.events, _ADMIN),
    View("POST", "/console/providers/pause", lambda to: to.providers.pause, _ADMIN),
    View("POST", "/console/providers/resume", lambda to: to.providers.resume, _ADMIN),
    View("GET", "/console/providers/move", lambda to: to.providers.preview_move, _ADMIN),
    View("POST", "/console/providers/move", lambda to: to.providers.move, _ADMIN),
    View("GET", "/console/callbacks", lambda to: to.callbacks.show, Scope.MESSAGES_READ, label="Callbacks"),
    View("GET", "/console/keys", lambda to: to.keys.show, _ADMIN, label="Clients and keys"),
    View("POST", "/console/keys", lambda to: to.keys.create, _ADMIN),
    View("POST", "/console/clients", lambda to: to.keys.create_client, _ADMIN),
    View("POST", "/console/keys/rotate", lambda to: to.keys.rotate, _ADMIN),
    View("POST", "/console/keys/revoke", lambda to: to.keys.revoke, _ADMIN),
    View("GET", "/console/settings", lambda to: to.settings.show, _ADMIN, label="Settings"),
    View("GET", SIGN_IN, lambda to: to.sign_in.form, public=True),
    View("POST", SIGN_IN, lambda to: to.sign_in.enter, public=True),
    View("POST", "/console/sign-out", lambda to: to.sign_in.leave),
    View("POST", "/console/theme", lambda to: to.sign_in.theme, public=True),
]

NAVIGATION = [Entry(view.path, view.label, view.scope) for view in VIEWS if view.label is not None]


def console_routes(views: Views, gate: Gate, assets: Assets, pages: Pages) -> list[Route]:
    """Every route of the console. The last one answers all other paths below `/console` with a page."""

    async def missing(request: Request) -> Response:
        raise not_found("The console has no page with this path.")

    return [
        *(view.route(views, gate) for view in VIEWS),
        Route(f"{BASE}/{{path:path}}", GuardedView(assets.serve, pages), methods=["GET"]),
        Route("/console{path:path}", gate.signed_in(missing, None)),
    ]
