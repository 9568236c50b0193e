"""`posthaste send`, `status` and `wait`, and the client of the API for all commands."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.terminal import exit_on, say
from jobs.lifecycle import ENDS, Status

POLL_SECONDS = 0.1
SUCCESSES = {Status.SENT, Status.DELIVERED, Status.COMPLETED}
REPORTS = "/api/2.0/report/jobs"

BaseUrl = Annotated[str | None, typer.Option("--url", help="The API's URL. Default: from POSTHASTE_HOST and POSTHASTE_PORT.")]
Deadline = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait.")]


class ApiError(Exception):
    """The API did not answer, or answered with a problem. The message names a remedy."""


class NotFound(ApiError):
    """The API answered 404."""


class TimeIsUp(Exception):
    """The deadline passed before the job ended. The job continues."""


class Client:
    """Calls one API over HTTP."""

    def __init__(self, base: str, *, key: str | None = None, timeout_seconds: float = 10.0):
        self._base = base.rstrip("/")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._timeout = timeout_seconds

    def send(self, destination: str, body: str, provider: str | None = None) -> dict[str, Any]:
        """Submit one message; the API's 202 answer."""
        fields = {"destination": destination, "body": body} | ({"provider": provider} if provider else {})
        return self.call("/messages", fields)

    def status(self, id_: UUID | str) -> str:
        return str(self.call(f"/message/{id_}/status")["status"])

    def ready(self) -> bool:
        try:
            self.call("/health/ready")
        except ApiError:
            return False
        return True

    def call(self, path: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a POST of the fields, or to a GET without fields."""
        try:
            answer: dict[str, Any] = json.loads(self.text(path, fields))
        except ValueError as error:
            raise ApiError(f"{self._base} is not Posthaste: its answer is not JSON") from error
        return answer

    def text(self, path: str, fields: dict[str, Any] | None = None) -> str:
        body = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(self._base + path, body, self._headers)  # noqa: S310  the operator's own URL
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            raise (NotFound if error.code == 404 else ApiError)(_explain(error)) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ApiError(f"no answer from {self._base} ({reason}); start it with `make run` or `posthaste up`") from error


def configured_client(url: str | None) -> Client:
    """A client of `url`, else of the API that the environment names. Needs no other setting."""
    host, port = os.environ.get("POSTHASTE_HOST", "127.0.0.1"), os.environ.get("POSTHASTE_PORT", "9006")
    return Client(url or f"http://{host}:{port}", key=os.environ.get("POSTHASTE_API_KEY"))


def until_end(
    read: Callable[[], dict[str, Any]], seconds: float, show: Callable[[dict[str, Any]], None] = lambda state: None
) -> dict[str, Any]:
    """Read and show a job's state until the job ends. Returns the last state. Raises `TimeIsUp` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        state = read()
        show(state)
        if Status(state["status"]) in ENDS:
            return state
        if time.monotonic() > deadline:
            raise TimeIsUp(f"{state['id']} is {state['status']} after {seconds:g} s; the job continues")
        time.sleep(POLL_SECONDS)


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.load(error)
        fields = "; ".join(f"{e['pointer']}: {e['detail']}" for e in problem.get("errors", []))
        hint = " POSTHASTE_API_KEY names the key." if error.code in (401, 403) else ""
        return f"{error.code} {problem['code']}: {problem['detail']}{hint}" + (f" ({fields})" if fields else "")
    except (ValueError, KeyError):
        return f"{error.code} {error.reason}"


def send(
    destination: str,
    body: str,
    provider: Annotated[str | None, typer.Option(help="A provider's name. Default: the default provider.")] = None,
    url: BaseUrl = None,
) -> None:
    with exit_on(ApiError):
        say(configured_client(url).send(destination, body, provider)["id"])


def status(id: UUID, url: BaseUrl = None) -> None:
    with exit_on(ApiError):
        say(configured_client(url).status(id))


def wait(id: UUID, timeout: Deadline = 3600.0, url: BaseUrl = None) -> None:
    """Wait until a message or a report ends, and print its status. Exit 0: success, 1: failure, 3: timeout."""
    client, path = configured_client(url), f"{REPORTS}/{id}"
    with exit_on(ApiError), exit_on(TimeIsUp, code=3):
        try:
            client.call(path)
        except NotFound:
            path = f"/messages/{id}"
        status = Status(until_end(lambda: client.call(path), timeout)["status"])
    say(status)
    raise typer.Exit(0 if status in SUCCESSES else 1)
