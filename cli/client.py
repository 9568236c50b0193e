"""The command's own calls to the API."""

import json
import time
import urllib.error
import urllib.request
from typing import Any
from uuid import UUID

TIMEOUT_SECONDS = 10.0


class ApiError(Exception):
    """The API did not answer, or answered with a problem; the message says which and what to do. `status`: of HTTP, if any."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Client:
    """Speaks to one API over HTTP."""

    def __init__(self, base: str, *, key: str | None = None, timeout_seconds: float = TIMEOUT_SECONDS):
        self._base = base.rstrip("/")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._timeout = timeout_seconds

    def send(self, destination: str, body: str, provider: str | None = None) -> dict[str, Any]:
        """Submit one message; the API's 202 answer."""
        fields = {"destination": destination, "body": body} | ({"provider": provider} if provider else {})
        return self._call("POST", "/messages", fields)

    def status(self, id_: UUID) -> str:
        return str(self._call("GET", f"/message/{id_}/status")["status"])

    def message(self, id_: UUID) -> dict[str, Any]:
        """A message's record."""
        return self._call("GET", f"/messages/{id_}")

    def submit_report(self) -> dict[str, Any]:
        """Submit a report; the API's 202 answer."""
        return self._call("POST", "/api/2.0/report/posts", {})

    def report(self, id_: UUID) -> dict[str, Any]:
        """A report's state, with its progress."""
        return self._call("GET", f"/api/2.0/report/jobs/{id_}")

    def is_report(self, id_: UUID) -> bool:
        """Whether there is a report with this id; False may also mean that there is nothing."""
        try:
            self.report(id_)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def result(self, id_: UUID, form: str) -> str:
        """A completed report's result, as JSON or CSV text."""
        return self._text("GET", f"/api/2.0/report/jobs/{id_}/result?format={form}")

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
        text = self._text(method, path, fields)
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ApiError(f"{self._base} is not Posthaste: its answer is not JSON") from error
        assert isinstance(answer, dict)
        return answer

    def _text(self, method: str, path: str, fields: dict[str, Any] | None = None) -> str:
        data = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(  # noqa: S310  the operator's own URL
            self._base + path, data, self._headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            raise ApiError(_explain(error), error.code) from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ApiError(f"no answer from {self._base} ({reason}); start it with `make run` or `posthaste up`") from error


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.load(error)
        fields = "; ".join(f"{e['pointer']}: {e['detail']}" for e in problem.get("errors", []))
        hint = " POSTHASTE_API_KEY names the key." if error.code in (401, 403) else ""
        return f"{error.code} {problem['code']}: {problem['detail']}{hint}" + (f" ({fields})" if fields else "")
    except (ValueError, KeyError):
        return f"{error.code} {error.reason}"
