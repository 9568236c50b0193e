"""Outgoing HTTP calls of providers and callbacks: name resolution, the POST, its timeouts, and the outcomes of failures."""

import asyncio
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from jobs.outcome import Outcome, Verdict
from jobs.retry import remote_clock, retry_after_seconds

_BODY_SECONDS = 2.0  # from the head of a response to the end of its body


class LookUpTimeout(OSError):
    """The name was not resolved in time."""


class ResolverBusy(OSError):
    """Hanging look-ups occupy all threads of the resolver."""


class Resolver(AbstractResolver):
    """Resolves with getaddrinfo in at most `threads` threads of its own; a look-up fails after `seconds`.

    Equal look-ups share one thread, so a hanging name occupies one thread. The threads are daemons: no exit waits for them.
    """

    def __init__(self, *, threads: int, seconds: float):
        self._threads = threads
        self._seconds = seconds
        self._running: dict[tuple[str, int], asyncio.Future[list[ResolveResult]]] = {}

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """The addresses of a host. Raises OSError: it has none; its subclasses `LookUpTimeout` and `ResolverBusy`."""
        look_up = self._running.get((host, family)) or self._start(host, family)
        await asyncio.wait({look_up}, timeout=self._seconds)
        if not look_up.done():
            raise LookUpTimeout(f"{host} was not resolved within {self._seconds:g} s")
        return [{**address, "port": port} for address in look_up.result()]

    def _start(self, host: str, family: socket.AddressFamily) -> asyncio.Future[list[ResolveResult]]:
        if len(self._running) >= self._threads:
            raise ResolverBusy(f"{self._threads} look-ups are running")
        answer = Future[list[ResolveResult]]()
        threading.Thread(target=_look_up, args=(host, family, answer), name=f"look-up of {host}", daemon=True).start()
        look_up = self._running[host, family] = asyncio.wrap_future(answer)
        look_up.add_done_callback(lambda _: self._running.pop((host, family)).exception())  # its callers may be gone
        return look_up

    async def close(self) -> None:
        """Required by the interface; the resolver has no resources."""


def _look_up(host: str, family: socket.AddressFamily, answer: Future[list[ResolveResult]]) -> None:
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        infos = socket.getaddrinfo(host, 0, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        addresses = [
            ResolveResult(hostname=host, host=_text(address), port=0, family=kind, proto=proto, flags=numeric)
            for kind, _, proto, _, address in infos
        ]
        answer.set_result(addresses)
    except OSError as error:
        answer.set_exception(error)
    except UnicodeError as error:  # a name that IDNA cannot encode
        answer.set_exception(socket.gaierror(socket.EAI_NONAME, str(error)))


def _text(address: tuple[object, ...]) -> str:
    """The address as text, with the scope of a link-local one."""
    if len(address) == 4 and address[3]:
        return socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]  # type: ignore[arg-type]
    return str(address[0])


def open_session(seconds: float, connector: aiohttp.TCPConnector, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """A session for calls of `seconds`. Connecting has a timeout of its own: a call without a connection was not sent."""
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=seconds, connect=seconds * 2 / 3, sock_connect=seconds / 3),
        headers={"User-Agent": "posthaste", "Content-Type": "application/json", **headers},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # a wrong content encoding would hide the status
        trust_env=False,  # a proxy would connect to unchecked addresses
    )


async def post(
    session: aiohttp.ClientSession,
    url: yarl.URL,
    data: bytes,
    headers: Mapping[str, str],
    *,
    seconds: float,
    body_bytes: int = 0,
    error_bytes: int = 0,
) -> tuple[int, float | None, bytes]:
    """Post once, without redirects. Returns the status, the seconds of Retry-After, and the body.

    At most `body_bytes` of a 2xx response are read, and `error_bytes` of others; errors in the body are ignored. A
    Retry-After date counts from the response's own Date. Raises aiohttp.ClientError or TimeoutError: no complete response
    head within `seconds`.
    """
    until = asyncio.get_running_loop().time() + seconds
    async with asyncio.timeout_at(until):
        response = await session.post(url, data=data, headers=headers, allow_redirects=False)
    try:
        limit = body_bytes if 200 <= response.status < 300 else error_bytes
        return response.status, _retry_after(response.headers), await _body(response.content, limit, until)
    finally:
        connection = response.connection
        if connection is not None and connection.transport is not None:  # unfinished: a close would wait for the peer
            connection.transport.abort()
        response.release()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of Retry-After; None without it. Most responses have none, and need no clock."""
    value = headers.get("Retry-After")
    return None if value is None else retry_after_seconds(value, remote_clock(headers.get("Date"), datetime.now(UTC)))


async def _body(content: aiohttp.StreamReader, limit: int, until: float) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + _BODY_SECONDS)):
            while len(body) < limit and (part := await content.read(limit - len(body))):
                body += part
    except (aiohttp.ClientError, TimeoutError):
        return b""
    return bytes(body)


def outcome_of(error: aiohttp.ClientError | TimeoutError, *, unconnected: Verdict) -> Outcome:
    """The outcome of a call without an answer. Without a connection it was surely not sent: its verdict is `unconnected`."""
    match error:
        case aiohttp.ClientSSLError():
            reason = "tls_failed"
        case aiohttp.ClientConnectorError(os_error=ResolverBusy()):  # a local shortage: not charged
            return Outcome(Verdict.DEFERRED, "resolver_busy", surely_not_sent=True)
        case aiohttp.ClientConnectorError(os_error=LookUpTimeout()):
            reason = "dns_timeout"
        case aiohttp.ClientConnectorError():
            reason = "no_connection"
        case aiohttp.ConnectionTimeoutError():
            reason = "connect_timeout"
        case _:
            return Outcome(Verdict.UNKNOWN, "timeout" if isinstance(error, TimeoutError) else "connection_lost", answered=False)
    return Outcome(unconnected, reason, surely_not_sent=True, answered=False)
