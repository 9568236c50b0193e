"""Renders the console's pages from their templates, and adds the headers that protect them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2_fragments import render_block
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.console import formats
from api.console.assets import Assets
from api.console.sessions import Viewer
from api.problems import Problem
from infra.keys import Scope

HOME = "/"
SIGN_IN = "/console/sign-in"
THEME_COOKIE = "posthaste_theme"
THEMES = ("system", "light", "dark")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_OWN_PATH = re.compile(r"/(console/[A-Za-z0-9/._-]*)?(\?[A-Za-z0-9&=%+._:~*-]*)?")
# The titles of problems whose status does not name the cause.
_TITLES = {
    "unavailable": "Postgres does not answer",
    "overloaded": "Too many requests wait",
    "backlog_full": "Too many jobs wait",
    "no_keys": "There are no keys yet",
}
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the navigation. Keys without `scope` do not see it."""

    path: str
    label: str
    scope: Scope | None


def viewer_of(request: Request) -> Viewer:
    """The viewer of a request that passed `Gate`."""
    viewer: Viewer = request.scope["posthaste.viewer"]
    return viewer


def is_fragment(request: Request) -> bool:
    """Whether htmx sent the request. The answer is then a part of the page."""
    return "hx-request" in request.headers


def own_path(path: str) -> str:
    """A path of the console from a form or a query; the start page instead of any other text."""
    return path if _OWN_PATH.fullmatch(path) else HOME


def see_other(path: str) -> Response:
    """Lead the browser to a page after a form."""
    return RedirectResponse(path, 303)


class Pages:
    """The templates. `navigation`: every entry, in order."""

    def __init__(self, assets: Assets, navigation: Sequence[Entry]):
        self._navigation = navigation
        self._environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        self._environment.filters.update({each.__name__: each for each in formats.FILTERS})
        self._environment.globals.update({"asset": assets.urls.__getitem__, "themes": THEMES, "Scope": Scope})
        # A block that is rendered by itself does not see the imports of its template.
        self._macros: Any = self._environment.get_template("macros.html").module
        self._environment.globals["ui"] = self._macros

    def show(
        self,
        request: Request,
        template: str,
        status: int = 200,
        *,
        headers: Mapping[str, str] | None = None,
        block: str | None = None,
        **values: Any,
    ) -> Response:
        """A page, or one block of it."""
        known = {**self._context(request), **values}
        text = self.fragment(template, block, **known) if block else self._environment.get_template(template).render(known)
        answer = HTMLResponse(text, status, headers)
        answer.headers["Content-Security-Policy"] = _POLICY
        answer.headers["Vary"] = "HX-Request, Cookie"
        return answer

    def fragment(self, template: str, block: str, **values: Any) -> str:
        """One block of a page as text. Its values do not depend on the request."""
        return render_block(self._environment, template, block, values)

    def text(self, template: str, **values: Any) -> str:
        """A template as text. Its values do not depend on the request."""
        return self._environment.get_template(template).render(values)

    def signed_out(self) -> str:
        """The notice for a viewer whose session has ended, in place of a live part."""
        return str(self._macros.signed_out())

    def problem(self, request: Request, problem: Problem) -> Response:
        """An error in the page's layout; for htmx without it."""
        block = "content" if is_fragment(request) else None
        title = _TITLES.get(problem.code, HTTPStatus(problem.status).phrase)
        return self.show(
            request,
            "problem.html",
            problem.status,
            headers=problem.headers,
            block=block,
            problem=problem,
            title=title,
            request_id=str(request.scope.get("posthaste.request_id", "")),
        )

    def _context(self, request: Request) -> dict[str, Any]:
        """The values of every page."""
        viewer: Viewer | None = request.scope.get("posthaste.viewer")
        theme = request.cookies.get(THEME_COOKIE, "")
        query = f"?{request.url.query}" if request.url.query else ""
        return {
            "viewer": viewer,
            "form_token": request.scope.get("posthaste.form_token", ""),
            "theme": theme if theme in THEMES else THEMES[0],
            "navigation": [entry for entry in self._navigation if viewer is not None and viewer.may(entry.scope)],
            "path": request.url.path,
            "here": own_path(request.url.path + query) if request.method in ("GET", "HEAD") else HOME,
        }
