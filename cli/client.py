"""The command's own calls to the API."""

import json
import time
import urllib.error
import urllib.request
from typing import Any
from uuid import UUID

TIMEOUT_SECONDS = 10.0


class ApiError(Exception):
    """The API did not answer, or answered with a problem; the message says which and what to do."""


class Client:
    """Speaks to one API over HTTP."""

    def __init__(self, base: str, *, timeout_seconds: float = TIMEOUT_SECONDS):
        self._base = base.rstrip("/")
        self._timeout = timeout_seconds

    def send(self, destination: str, body: str, provider: str | None = None) -> dict[str, Any]:
        """Submit one message; the API's 202 answer."""
        fields = {"destination": destination, "body": body} | ({"provider": provider} if provider else {})
        return self._call("POST", "/messages", fields)

    def status(self, id_: UUID) -> str:
        return str(self._call("GET", f"/message/{id_}/status")["status"])

    def live(self) -> bool:
        return self._call("GET", "/health/live") == {"status": "live"}

    def ready(self) -> bool:
        try:
            self._call("GET", "/health/ready")
        except ApiError:
            return False
        return True

    def wait_for(self, id_: UUID, ends: frozenset[str], seconds: float) -> str:
        """Poll the status until it is one of `ends`; the last one seen when the time is up."""
        deadline = time.monotonic() + seconds
        while (status := self.status(id_)) not in ends and time.monotonic() < deadline:
            time.sleep(0.02)
        return status

    def _call(self, method: str, path: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(  # noqa: S310  the operator's own URL
            self._base + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise ApiError(_explain(error)) from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ApiError(f"no answer from {self._base} ({reason}); start it with `make run` or `posthaste up`") from error
        assert isinstance(answer, dict)
        return answer


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.load(error)
        fields = "; ".join(f"{e['pointer']}: {e['detail']}" for e in problem.get("errors", []))
        return f"{error.code} {problem['code']}: {problem['detail']}" + (f" ({fields})" if fields else "")
    except (ValueError, KeyError):
        return f"{error.code} {error.reason}"
