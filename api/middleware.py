"""For every request: id, log line, security headers, and a rejection if a browser sends it for a page of another site.

DNS rebinding binds the name of another site to this address; `Host` has that name. For forms and images of another site,
browsers set `Sec-Fetch-Site` on loopback and with TLS. Old browsers, and all browsers elsewhere, set only `Origin`. Other
clients send no such headers, and pass. The API has no CORS, so no page of another site can read an answer.
"""

import random
import re
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, render

RawHeaders = list[tuple[bytes, bytes]]  # lower-case names, as in an ASGI scope

ANY = "*"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]+)(:[0-9]*)?")
_READS = ("GET", "HEAD", "OPTIONS")
_SENT_BY_BROWSERS = (b"sec-fetch-site", b"origin")
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
        problem = self._problem(scope["method"], scope["headers"]) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await render(Request(scope), problem)(scope, receive, send)

    def _problem(self, method: str, headers: RawHeaders) -> Problem | None:
        if self._listed or not self._keys_required():
            for host in [value for name, value in headers if name == b"host"]:
                if len(host) > _MAX_HOST or not self._is_own(host):
                    quoted = host[:_MAX_QUOTED].decode("latin-1")
                    detail = f"{quoted!r} is not a name of this API. POSTHASTE_ALLOWED_HOSTS lists its names."
                    return Problem(421, "unknown_host", detail)
        if any(name in _SENT_BY_BROWSERS for name, _ in headers) and _is_foreign(method, Headers(raw=headers)):
            return Problem(403, "cross_site", "A browser sent this request for a page of another site.")
        return None

    def _is_own_name(self, host: bytes) -> bool:
        """Whether a Host header has a name of this API."""
        found = _HOST.fullmatch(host.decode("latin-1"))
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


_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# Answers are data. Browsers must not execute, frame or sniff them; caches must not store them.
_SECURITY = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class AnswerHeaders:
    """Repeats a valid `X-Request-ID` of the client, else a new id, and adds security headers that the endpoint has not set.

    Each of `observers` gets every request with its status and the seconds until its answer began.
    """

    def __init__(self, app: ASGIApp, *observers: Callable[[Scope, int, float], None]):
        self._app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_ids = [value for name, value in scope["headers"] if name == b"x-request-id"]
        repeated = client_ids and _VALID_ID.fullmatch(client_ids[0])
        request_id = client_ids[0] if repeated else b"%032x" % random.getrandbits(128)
        scope["posthaste.request_id"] = request_id.decode()
        started = time.monotonic()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                security = [header for header in _SECURITY if header[0] not in names]
                message["headers"] = [*message["headers"], *security, (b"x-request-id", request_id)]
                seconds = time.monotonic() - started
                for observe in self._observers:
                    observe(scope, message["status"], seconds)
            await send(message)

        await self._app(scope, receive, send_with_id)
