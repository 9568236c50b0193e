"""Requests that a browser sends for a foreign page are refused. Other clients send no such headers, and pass.

A page that has bound its own name to this address (DNS rebinding) shows that name in `Host`. A page that submits a form or
loads an image from here shows itself in `Sec-Fetch-Site`, or in `Origin` where the browser is old or the API is not on
loopback. The API has no CORS, so no page of another site has a use for an answer.
"""

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import Problem, render

ANY = "*"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]+)(:[0-9]*)?")
_READS = ("GET", "HEAD", "OPTIONS")
_MAX_HOST = 260  # characters: a name has 253, and a port six
_MAX_SHOWN = 100  # characters of a client's own Host that are repeated to it


class Origins:
    """Refuses what a browser sends for a foreign page.

    Every `Host` may be an address or localhost, as no other site has them, or one of `names`. Keys make rebinding harmless:
    with keys, any name passes unless names are `listed` by the operator.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], *, listed: bool, keys_required: Callable[[], bool]):
        self._app = app
        self._names = frozenset(name.lower() for name in names)
        self._listed = listed
        self._keys_required = keys_required
        self._is_ours = lru_cache(maxsize=256)(self._judge)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await render(Request(scope), problem)(scope, receive, send)

    def _problem(self, method: str, headers: Headers) -> Problem | None:
        if self._listed or not self._keys_required():
            for host in headers.getlist("host"):
                if len(host) > _MAX_HOST or not self._is_ours(host):
                    detail = f"This API does not answer as {host[:_MAX_SHOWN]!r}. POSTHASTE_ALLOWED_HOSTS lists its names."
                    return Problem(421, "unknown_host", detail)
        if _is_foreign(method, headers):
            return Problem(403, "cross_site", "A browser sent this request for a page of another site.")
        return None

    def _judge(self, host: str) -> bool:
        """Whether a Host header names us."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").removesuffix(".").lower()
        if ANY in self._names or name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _is_foreign(method: str, headers: Headers) -> bool:
    """Whether a browser sent the request for a page of another site, other than by opening a link to here."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        followed = method in _READS and headers.get("sec-fetch-mode") == "navigate"
        return site not in ("same-origin", "none") and not followed
    origin = headers.get("origin")
    if origin is None or method in _READS:
        return False
    return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
