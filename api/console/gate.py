"""The gate of the console: who views a page, whether the key's scope allows it, and whether a form is the console's own.

A browser sends a session cookie with every request, so each change needs a token that only the console's pages contain.
"""

import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog
from starlette.datastructures import ImmutableMultiDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Send
from starlette.types import Scope as ASGIScope

from api.callers import Access, Keyring
from api.console import sessions
from api.console.pages import HOME, SIGN_IN, Pages, is_fragment, own_path, see_other
from api.console.sessions import Viewer
from api.problems import Problem, problem_from
from infra.keys import Scope

log = structlog.get_logger()

SESSION_COOKIE = "posthaste_session"
TOKEN_COOKIE = "posthaste_form"  # noqa: S105  a cookie's name
TOKEN_HEADER = "x-csrf-token"  # noqa: S105
TOKEN_FIELD = "csrf_token"  # noqa: S105
MAX_FORM_BYTES = 64 * 1024
_MAX_LENGTH_DIGITS = 7  # of the header Content-Length
_MAX_FIELDS = 100
_MAX_SHOWN = 50  # characters of a field's name in an answer

Endpoint = Callable[[Request], Awaitable[Response]]
Step = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class GuardedView:
    """An endpoint as an ASGI application. Every error becomes a page."""

    endpoint: Endpoint
    pages: Pages

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        request = Request(scope, _bounded(receive), send)
        try:
            response = await self.endpoint(request)
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001  a defect becomes a page, too, and the log has all of it
            response = self.pages.problem(request, _problem(request, error))
        await response(scope, receive, send)


def _bounded(receive: Receive) -> Receive:
    """The same messages. Raises a 413 problem once their bodies exceed `MAX_FORM_BYTES`. A wrong header changes nothing."""
    size = 0

    async def received() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_FORM_BYTES:
            raise _too_large()
        return message

    return received


def _too_large() -> Problem:
    """413. The rest of the body remains unread, so the connection is unusable."""
    return Problem(413, "too_large", f"A form must not exceed {MAX_FORM_BYTES} bytes.", headers={"Connection": "close"})


def _problem(request: Request, error: Exception) -> Problem:
    if isinstance(error, HTTPException):  # Starlette's, for forms with too many fields
        return Problem(error.status_code, "malformed_form", str(error.detail))
    if (problem := problem_from(error)) is not None:
        return problem
    log.error("console.failed", request_id=request.scope.get("posthaste.request_id"), exc_info=error)
    return Problem(500, "internal_error", "This is a defect of Posthaste. The log has the details.")


class Gate:
    """Wraps the console's endpoints. `keyring` and `access` are those of the API."""

    def __init__(self, keyring: Keyring, access: Access, pages: Pages):
        self._keyring = keyring
        self._access = access
        self._pages = pages

    def public(self, endpoint: Endpoint) -> GuardedView:
        """The endpoint for everybody. Changes need the token of a form."""

        async def guarded(request: Request) -> Response:
            try:
                await self._find_viewer(request)
            except Problem as problem:  # without Postgres, visitors may choose a theme and sign in again
                if problem.status != 503:
                    raise
            return await self._answer(request, endpoint)

        return GuardedView(guarded, self._pages)

    def signed_in(self, endpoint: Endpoint, scope: Scope | None) -> GuardedView:
        """The endpoint for viewers whose key has `scope`; None: for every key. Others sign in first."""

        async def guarded(request: Request) -> Response:
            viewer = await self._find_viewer(request)
            if viewer is None:
                return _sign_in_first(request)
            if not viewer.may(scope):
                raise Problem(403, "forbidden", f"This key lacks the scope {scope}.")
            return await self._answer(request, endpoint)

        return GuardedView(guarded, self._pages)

    async def _answer(self, request: Request, endpoint: Endpoint) -> Response:
        is_new = _set_token(request)
        _refuse_nul(request.query_params)
        if request.method not in ("GET", "HEAD"):
            await _check_form(request)
        response = await endpoint(request)
        if is_new:
            set_cookie(request, response, TOKEN_COOKIE, request.scope["posthaste.form_token"])
        if "posthaste.session_over" in request.scope and SESSION_COOKIE not in response.headers.get("set-cookie", ""):
            response.delete_cookie(SESSION_COOKIE)
        return response

    async def _find_viewer(self, request: Request) -> Viewer | None:
        """The request's viewer; None without a session. Raises 429 and 503 problems as the API does."""
        open_caller = self._keyring.open_caller()
        if open_caller is not None:
            viewer: Viewer | None = Viewer(open_caller, "")
        else:
            viewer = await self._of_session(request)
        if viewer is not None:
            await self._access.count(viewer.caller)
            request.scope["posthaste.caller"], request.scope["posthaste.viewer"] = viewer.caller, viewer
        return viewer

    async def _of_session(self, request: Request) -> Viewer | None:
        cookie = request.cookies.get(SESSION_COOKIE)
        session = sessions.parse(cookie, time.time()) if cookie else None
        if session is None:
            return None
        caller = await self._keyring.caller_named(session.prefix)
        if caller is None or not session.is_signed(caller.hash):
            request.scope["posthaste.session_over"] = True
            await self._access.count_bad_key(request)
            return None
        caller.used_at = time.monotonic()
        return Viewer(caller, sessions.token_of(session, caller.hash), session.expires_at)


def _set_token(request: Request) -> bool:
    """Find the token of the request's forms: the session's, else the cookie's. True: it is new, and needs a cookie."""
    viewer: Viewer | None = request.scope.get("posthaste.viewer")
    if viewer is not None and viewer.form_token:
        request.scope["posthaste.form_token"] = viewer.form_token
        return False
    token = request.cookies.get(TOKEN_COOKIE, "")
    is_new = not sessions.is_token(token)
    request.scope["posthaste.form_token"] = sessions.new_token() if is_new else token
    return is_new


async def _check_form(request: Request) -> None:
    """Raise a 403 problem unless the form has the token, and problems for a form that is too large or of another type."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        raise Problem(415, "unsupported_media_type", "The console accepts the forms of its own pages only.")
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or len(length) > _MAX_LENGTH_DIGITS or int(length) > MAX_FORM_BYTES:
        raise _too_large()
    form = await request.form(max_files=0, max_fields=_MAX_FIELDS)
    sent = request.headers.get(TOKEN_HEADER) or form.get(TOKEN_FIELD)
    expected = str(request.scope["posthaste.form_token"])
    if not isinstance(sent, str) or not hmac.compare_digest(sent.encode(), expected.encode()):
        raise Problem(403, "form_expired", "This form is too old, or not of this console. Open the page again and repeat it.")
    _refuse_nul(form)


def _refuse_nul(fields: ImmutableMultiDict[str, Any]) -> None:
    """Raise a 422 problem for a NUL character, which Postgres cannot store. `fields`: of a form or a query."""
    for name, value in fields.multi_items():
        if "\0" in name or (isinstance(value, str) and "\0" in value):
            shown = name.replace("\0", "\\0")[:_MAX_SHOWN]
            raise Problem(422, "validation", f"Not valid. {shown}: must not contain a NUL character.")


def _sign_in_first(request: Request) -> Response:
    """Lead the browser to the sign-in, and from there back to the page."""
    is_page = request.method in ("GET", "HEAD") and "text/event-stream" not in request.headers.get("accept", "")
    query = f"?{request.url.query}" if request.url.query else ""
    next_ = own_path(request.url.path + query) if is_page and not is_fragment(request) else HOME
    place = SIGN_IN if next_ == HOME else f"{SIGN_IN}?next={quote(next_, safe='')}"
    if is_fragment(request):
        return Response(status_code=401, headers={"HX-Redirect": place})
    response = see_other(place)
    if SESSION_COOKIE in request.cookies:  # a browser leaves it out when another site links here; the session continues
        response.delete_cookie(SESSION_COOKIE)
    return response


def set_cookie(request: Request, response: Response, name: str, value: str, seconds: int | None = None) -> None:
    """Set a cookie that no script and no other site can use."""
    is_secure = request.url.scheme == "https"
    response.set_cookie(name, value, max_age=seconds, path="/", secure=is_secure, httponly=True, samesite="strict")
