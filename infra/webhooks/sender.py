"""Posts signed events to guarded URLs. Redirects are not followed, and response bodies are not read."""

import socket
from datetime import UTC, datetime

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from infra.http_calls import outcome_of, post, resolver, timeouts
from infra.webhooks.guard import Guard, Refused
from infra.webhooks.signing import Signer
from jobs.outcome import Outcome, Verdict, from_callback

_LOOK_UPS_PER_CALL, _MAX_LOOK_UPS = 4, 512  # threads: a hanging look-up outlives its call
REFUSED = Outcome(Verdict.REJECTED, "address_refused", surely_not_sent=True)


class _Forbidden(OSError):
    """The guard rejects an address. An OSError, because the client expects one from connecting."""


class _GuardedResolver(AbstractResolver):
    """Rejects a name if one of its addresses is forbidden."""

    def __init__(self, guard: Guard, inner: AbstractResolver):
        self._guard = guard
        self._inner = inner

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        results = await self._inner.resolve(host, port, family)
        for result in results:
            _permit(self._guard, result["host"], port)
        return results

    async def close(self) -> None:
        await self._inner.close()


def _permit(guard: Guard, address: str, port: int) -> None:
    try:
        guard.permit(address, port)
    except Refused as error:
        raise _Forbidden(str(error)) from error


class CallbackSender:
    """Sends within `timeout_seconds`, including name resolution and TLS. `send` returns an outcome for every error."""

    def __init__(
        self,
        guard: Guard,
        signer: Signer,
        *,
        timeout_seconds: float,
        concurrency: int,
        names: AbstractResolver | None = None,
    ):
        self.timeout_seconds = timeout_seconds
        self._guard = guard
        self._signer = signer

        def open_socket(info: aiohttp.connector.AddrInfoType) -> socket.socket:
            _permit(guard, str(info[4][0]), int(info[4][1]))  # the address of the connection, whatever the name resolved to
            return socket.socket(info[0], info[1], info[2])

        threads = min(_MAX_LOOK_UPS, concurrency * _LOOK_UPS_PER_CALL)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=concurrency,
                keepalive_timeout=15,
                resolver=_GuardedResolver(guard, names or resolver(timeout_seconds, threads=threads)),
                socket_factory=open_socket,
            ),
            timeout=timeouts(timeout_seconds),
            headers={"User-Agent": "posthaste", "Content-Type": "application/json", "Accept": "*/*"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # a proxy would connect to unchecked addresses
        )

    async def send(self, url: str, id_: str, body: str) -> Outcome:
        """Post one event. Only the HTTP status decides; the response body is not read."""
        try:
            self._guard.check(url)
        except Refused:  # the allow-list has changed since the acceptance
            return REFUSED
        headers = self._signer.headers(id_, datetime.now(UTC), body)
        try:
            answer = await post(
                self._session, yarl.URL(url, encoded=True), body.encode(), headers, seconds=self.timeout_seconds
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            forbidden = isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, _Forbidden)
            return REFUSED if forbidden else outcome_of(error)
        return from_callback(answer.status, answer.retry_after_seconds)

    async def close(self) -> None:
        await self._session.close()
