"""A provider over HTTP: `POST url {"destination": …, "body": …}`. docs/providers.md describes requests and answers."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import aiohttp
import orjson
import yarl

from infra.http_calls import Resolver, open_session, outcome_of, post
from jobs.outcome import Outcome, Verdict, from_http

_MAX_BODY = 64 * 1024  # bytes that are read for the message id


class HttpProvider:
    """Sends to one URL over pooled connections. `send` returns an outcome for every error.

    `headers`: of each request. `message_id_field`: the field of the JSON answer that has the provider's id of the message.
    `trace_headers`: the headers that continue the current trace; None without tracing.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        concurrency: int,
        headers: Mapping[str, str] = MappingProxyType({}),
        message_id_field: str = "id",
        trace_headers: Callable[[], Mapping[str, str]] | None = None,
    ):
        self.timeout_seconds = timeout_seconds
        self._url = yarl.URL(url)  # raises ValueError at start, not at the first message
        names = Resolver(threads=2, seconds=timeout_seconds / 3)  # a provider has one name
        connector = aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=30, resolver=names)
        self._session = open_session(timeout_seconds, connector, {"Accept-Encoding": "identity"})
        self._headers = headers
        self._message_id_field = message_id_field
        self._trace_headers = trace_headers

    async def send(self, destination: str, body: str, idempotency_key: str) -> Outcome:
        """Send one message. Only the HTTP status decides; errors in the response body are ignored."""
        payload = orjson.dumps({"destination": destination, "body": body})
        headers = {**self._headers, "Idempotency-Key": idempotency_key}
        if self._trace_headers is not None:
            headers |= self._trace_headers()
        try:
            status, retry_after, answer = await post(
                self._session, self._url, payload, headers, seconds=self.timeout_seconds, body_bytes=_MAX_BODY
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            return outcome_of(error, unconnected=Verdict.DEFERRED)  # an outage charges no message
        return from_http(status, _message_id(answer, self._message_id_field), retry_after)

    async def close(self) -> None:
        await self._session.close()


def _message_id(content: bytes, field: str) -> str | None:
    """The provider's id of the message, if the response is a JSON object whose `field` is a string or an integer."""
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    id_ = answer.get(field) if isinstance(answer, dict) else None
    return str(id_)[:200].replace("\0", "") if isinstance(id_, str | int) and not isinstance(id_, bool) else None
