"""Rejects requests that a browser sends for a page of another site. Other clients send no such headers, and pass.

DNS rebinding binds the name of another site to this address; `Host` has that name. For forms and images of another site,
browsers set `Sec-Fetch-Site` on loopback and with TLS. Old browsers, and all browsers elsewhere, set only `Origin`. The API has
no CORS, so no page of another site can read an answer.
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
_MAX_QUOTED = 100  # characters of the Host header in an answer


class Origins:
    """Rejects a browser's requests for pages of other sites.

    `Host` may be an address, localhost, or one of `names`: no other site has those. A page of another site has no key. So
    any name passes if requests need keys and the operator has not `listed` names.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], *, listed: bool, keys_required: Callable[[], bool]):
        self._app = app
        self._names = frozenset(name.lower() for name in names)
        self._listed = listed
        self._keys_required = keys_required
        self._is_own = lru_cache(maxsize=256)(self._is_own_name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await render(Request(scope), problem)(scope, receive, send)

    def _problem(self, method: str, headers: Headers) -> Problem | None:
        if self._listed or not self._keys_required():
            for host in headers.getlist("host"):
                if len(host) > _MAX_HOST or not self._is_own(host):
                    detail = f"{host[:_MAX_QUOTED]!r} is not a name of this API. POSTHASTE_ALLOWED_HOSTS lists its names."
                    return Problem(421, "unknown_host", detail)
        if _is_foreign(method, headers):
            return Problem(403, "cross_site", "A browser sent this request for a page of another site.")
        return None

    def _is_own_name(self, host: str) -> bool:
        """Whether a Host header has a name of this API."""
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
    """Whether a browser sent the request for a page of another site. Links from other sites are allowed."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        is_link = method in _READS and headers.get("sec-fetch-mode") == "navigate"
        return site not in ("same-origin", "none") and not is_link
    origin = headers.get("origin")
    if origin is None or method in _READS:
        return False
    return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
