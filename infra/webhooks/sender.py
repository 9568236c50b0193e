"""Posts signed events to guarded URLs. Redirects are not followed, and response bodies are not read."""

import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from infra.http_calls import Resolver, open_session, outcome_of, post
from infra.webhooks.guard import Guard, Refused
from infra.webhooks.signing import Signer
from jobs.outcome import Outcome, Verdict, from_callback

_LOOK_UPS_PER_CALL, _MAX_LOOK_UPS = 4, 512  # threads: a hanging look-up outlives its call
REFUSED = Outcome(Verdict.REJECTED, "address_refused", surely_not_sent=True)


class _GuardedResolver(AbstractResolver):
    """Rejects a name if one of its addresses is forbidden."""

    def __init__(self, guard: Guard, names: AbstractResolver):
        self._guard = guard
        self._names = names

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        results = await self._names.resolve(host, port, family)
        for result in results:
            self._guard.permit(result["host"], port)
        return results

    async def close(self) -> None:
        await self._names.close()


class CallbackSender:
    """Sends within `timeout_seconds`, including name resolution and TLS. `send` returns an outcome for every error.

    `trace_headers`: the headers that continue the current trace; None without tracing.
    """

    def __init__(
        self,
        guard: Guard,
        signer: Signer,
        *,
        timeout_seconds: float,
        concurrency: int,
        names: AbstractResolver | None = None,
        trace_headers: Callable[[], Mapping[str, str]] | None = None,
    ):
        self.timeout_seconds = timeout_seconds
        self._trace_headers = trace_headers
        self._guard = guard
        self._signer = signer

        def open_socket(info: aiohttp.connector.AddrInfoType) -> socket.socket:
            guard.permit(str(info[4][0]), int(info[4][1]))  # the address of the connection, whatever the name resolved to
            return socket.socket(info[0], info[1], info[2])

        threads = min(_MAX_LOOK_UPS, concurrency * _LOOK_UPS_PER_CALL)
        connector = aiohttp.TCPConnector(
            limit=concurrency,
            keepalive_timeout=15,
            resolver=_GuardedResolver(guard, names or Resolver(threads=threads, seconds=timeout_seconds / 3)),
            socket_factory=open_socket,
        )
        self._session = open_session(timeout_seconds, connector, {"Accept": "*/*"})

    async def send(self, url: str, id_: str, body: str) -> Outcome:
        """Post one event. Only the HTTP status decides; the response body is not read."""
        headers = self._signer.headers(id_, datetime.now(UTC), body)
        if self._trace_headers is not None:
            headers |= self._trace_headers()
        try:
            self._guard.check(url)  # again: the allow-list may have changed since the acceptance
            target = yarl.URL(url, encoded=True)
            status, retry_after, _ = await post(self._session, target, body.encode(), headers, seconds=self.timeout_seconds)
        except Refused:
            return REFUSED
        except (aiohttp.ClientError, TimeoutError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, Refused)
            return REFUSED if refused else outcome_of(error, unconnected=Verdict.RETRYABLE)  # Standard Webhooks' schedule
        return from_callback(status, retry_after)

    async def close(self) -> None:
        await self._session.close()
