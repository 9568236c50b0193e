"""Sign-in with an API key, sign-out, and the choice of the theme."""

import time
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.callers import Access, Keyring
from api.console import sessions
from api.console.gate import SESSION_COOKIE, set_cookie
from api.console.pages import HOME, SIGN_IN, THEME_COOKIE, THEMES, Pages, own_path, see_other
from api.problems import Problem

log = structlog.get_logger()

_THEME_SECONDS = 365 * 86_400
_MAX_KEY = 200  # characters of a key that is tried


@dataclass(frozen=True, slots=True)
class SignIn:
    """The endpoints of sessions and themes."""

    pages: Pages
    keyring: Keyring
    access: Access

    async def form(self, request: Request) -> Response:
        """The form; the page itself for a viewer who needs no sign-in."""
        next_ = own_path(request.query_params.get("next", HOME))
        if "posthaste.viewer" in request.scope:
            return see_other(next_)
        return self.pages.show(request, "sign_in.html", next=next_, fault=None)

    async def enter(self, request: Request) -> Response:
        """Start a session. A wrong key shows the form again, and counts against the address."""
        form = await request.form()
        next_, key = own_path(str(form.get("next", HOME))), str(form.get("key", ""))[:_MAX_KEY].strip()
        if self.keyring.open_caller() is not None:
            return see_other(next_)
        try:
            caller = await self.keyring.caller_with(key)
        except Problem as problem:
            if problem.status != 401:
                raise
            await self.access.count_bad_key(request)
            return self.pages.show(request, "sign_in.html", 401, next=next_, fault=problem.detail)
        assert caller.prefix is not None
        log.info("console.signed_in", key=caller.prefix, client=caller.client_id)
        response = see_other(next_)
        cookie = sessions.issue(caller.prefix, caller.hash, time.time())
        set_cookie(request, response, SESSION_COOKIE, cookie, sessions.SESSION_SECONDS)
        return response

    async def leave(self, request: Request) -> Response:
        """End the session in this browser."""
        response = see_other(SIGN_IN)
        response.delete_cookie(SESSION_COOKIE)
        return response

    async def theme(self, request: Request) -> Response:
        """Store the theme in a cookie, and show the same page again."""
        form = await request.form()
        theme = form.get("theme")
        if theme not in THEMES:
            raise Problem(422, "validation", "Themes: system, light, dark.")
        response = see_other(own_path(str(form.get("next", HOME))))
        set_cookie(request, response, THEME_COOKIE, str(theme), _THEME_SECONDS)
        return response
