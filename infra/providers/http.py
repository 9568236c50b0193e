"""A provider that is reached by HTTP: `POST url {"destination": …, "body": …}` with an `Idempotency-Key` header."""

from datetime import UTC, datetime

import aiohttp
import orjson
import yarl

from infra.http_calls import outcome_of
from jobs.outcome import Outcome, from_http
from jobs.retry import retry_after_seconds, their_clock

_LONGEST_ANSWER = 64 * 1024  # bytes that are read for a message id; the rest is of no interest


class HttpProvider:
    """Sends through one URL over pooled connections. `send` never raises: whatever happens is an outcome."""

    def __init__(self, url: str, *, timeout_seconds: float, concurrency: int):
        self.timeout_seconds = timeout_seconds
        self._url = yarl.URL(url)  # a ValueError at start rather than at the first message
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=timeout_seconds / 2),
            headers={"User-Agent": "posthaste", "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def send(self, destination: str, body: str, idempotency_key: str) -> Outcome:
        """Hand one message to the provider and judge its answer."""
        payload = orjson.dumps({"destination": destination, "body": body})
        try:
            async with self._session.post(
                self._url, data=payload, headers={"Idempotency-Key": idempotency_key}, allow_redirects=False
            ) as response:
                content = await response.content.read(_LONGEST_ANSWER)
                clock = their_clock(response.headers.get("Date"), datetime.now(UTC))
                wait = retry_after_seconds(response.headers.get("Retry-After"), clock)
                return from_http(response.status, _message_id(content), wait)
        except (aiohttp.ClientError, TimeoutError) as error:
            return outcome_of(error)

    async def close(self) -> None:
        await self._session.close()


def _message_id(content: bytes) -> str | None:
    """The provider's own id of the message, where its answer is a JSON object that has one."""
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    id_ = answer.get("id") if isinstance(answer, dict) else None
    return id_[:200].replace("\0", "") if isinstance(id_, str) else None
