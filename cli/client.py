"""`posthaste status` and `wait`, and the client of the API for all commands."""

import base64
import hashlib
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, InvalidURL
from typing import Annotated, Any, BinaryIO
from uuid import UUID

import typer

from cli.terminal import AsJson, exit_on, print_json, say
from jobs.lifecycle import ENDS, SUCCESSES, Status
from service.settings import SettingsError, load_api_settings

POLL_SECONDS = 0.1
REPORTS = "/api/2.0/report/jobs"
CHUNK_BYTES = 256 * 1024
DOWNLOAD_SECONDS = 600.0  # the API writes a result before its first byte
_DIGEST = re.compile(r"\bsha-256=:([A-Za-z0-9+/=]+):")
REPEATABLE = {429, 502, 503, 504}

BaseUrl = Annotated[str | None, typer.Option("--url", help="The API's URL. Default: from POSTHASTE_HOST and POSTHASTE_PORT.")]
Deadline = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait.")]


class ApiError(Exception):
    """The API did not answer, or answered with a problem. The message names a remedy."""


class NotFound(ApiError):
    """The API answered 404."""


class Forbidden(ApiError):
    """The API answered 403."""


class Unavailable(ApiError):
    """The API did not answer, or rejected the request for now. The request may be repeated under its key."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TimeIsUp(Exception):
    """The deadline passed before the job ended. The job continues."""


class Client:
    """Calls one API over HTTP."""

    def __init__(self, base: str, *, key: str | None = None, timeout_seconds: float = 10.0):
        self._base = base.rstrip("/")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._timeout = timeout_seconds

    def send(self, destination: str, body: str, *, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Submit one message, optionally under an idempotency key; the API's 202 answer."""
        headers = {"Idempotency-Key": key} if key else {}
        return self.call("/messages", {"destination": destination, "body": body, **fields}, headers)

    def status(self, id_: UUID | str) -> str:
        """The status of a message."""
        return str(self.call(f"/message/{id_}/status")["status"])

    def ready(self) -> bool:
        try:
            self.call("/health/ready")
        except ApiError:
            return False
        return True

    def call(self, path: str, fields: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """The answer to a POST of the fields, or to a GET without fields."""
        try:
            answer: dict[str, Any] = json.loads(self.text(path, fields, headers))
        except ValueError as error:
            raise ApiError(f"{self._base} is not Posthaste: its answer is not JSON") from error
        return answer

    def delete(self, path: str) -> None:
        """Delete a resource."""
        for _ in self._answer(path, None, {}, self._timeout, method="DELETE"):
            pass

    def text(self, path: str, fields: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> str:
        body = None if fields is None else json.dumps(fields).encode()
        return b"".join(self._answer(path, body, headers or {}, self._timeout)).decode(errors="replace")

    def download(self, path: str, file: BinaryIO) -> None:
        """Write the answer to a GET to a file. Raises `OSError` if the file cannot be written."""
        for chunk in self._answer(path, None, {}, DOWNLOAD_SECONDS):
            file.write(chunk)

    def _answer(
        self, path: str, body: bytes | None, headers: dict[str, str], seconds: float, *, method: str | None = None
    ) -> Iterator[bytes]:
        """The answer in chunks. After the last one, raises `ApiError` if `Repr-Digest` has another SHA-256 (RFC 9530).

        The method is POST with a body, else GET, unless `method` names another one.
        """
        digest = hashlib.sha256()
        try:
            all_headers = self._headers | headers
            request = urllib.request.Request(self._base + path, body, all_headers, method=method)  # noqa: S310  the operator's own URL
            with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310
                while chunk := response.read(CHUNK_BYTES):
                    digest.update(chunk)
                    yield chunk
                sent = _DIGEST.search(response.headers.get("Repr-Digest", ""))
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except (ValueError, InvalidURL) as error:
            raise ApiError(f"cannot call {self._base}: {error}") from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Unavailable(f"no answer from {self._base} ({reason}); start it with `make run` or `posthaste up`") from error
        if sent is not None and sent[1] != base64.b64encode(digest.digest()).decode():
            raise ApiError(f"the answer of {self._base} is damaged: its SHA-256 is not that of Repr-Digest; repeat the request")


def configured_client(url: str | None) -> Client:
    """A client of `url`, else of the API that the settings name. Needs no other setting."""
    with exit_on(SettingsError, OSError):
        settings = load_api_settings()
    return Client(url or settings.api_url, key=settings.api_key)


def until_end(
    read: Callable[[], dict[str, Any]], seconds: float, show: Callable[[dict[str, Any]], None] = lambda state: None
) -> dict[str, Any]:
    """Read and show a job's state until the job ends. Returns the last state. A failed read is repeated.

    Raises:
        TimeIsUp: the job has not ended after `seconds`.
        Unavailable: the last read failed.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            state = read()
            show(state)
            if Status(state["status"]) in ENDS:
                return state
            if time.monotonic() > deadline:
                raise TimeIsUp(f"{state['id']} is {state['status']} after {seconds:g} s; the job continues")
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def find(client: Client, id_: UUID, suffix: str = "") -> tuple[str, dict[str, Any]]:
    """The path of a message or a report, and the API's answer.

    Raises:
        ApiError: neither exists, or the key may not read it.
    """
    reasons = [f"there is no message or report {id_}"]
    for path in (f"/messages/{id_}{suffix}", f"{REPORTS}/{id_}{suffix}"):
        try:
            return path, client.call(path)
        except NotFound:
            continue
        except Forbidden as error:
            reasons.append(str(error))
    raise ApiError("; ".join(reasons))


def _refusal(error: urllib.error.HTTPError) -> ApiError:
    """The error of an answer that is a problem."""
    if error.code in REPEATABLE:
        seconds = error.headers.get("Retry-After", "")
        return Unavailable(_explain(error), float(seconds) if seconds.isdecimal() else 0.0)
    return {403: Forbidden, 404: NotFound}.get(error.code, ApiError)(_explain(error))


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.load(error)
        fields = "; ".join(f"{e['pointer']}: {e['detail']}" for e in problem.get("errors", []))
        hint = " POSTHASTE_API_KEY names the key." if error.code in (401, 403) else ""
        return f"{error.code} {problem['code']}: {problem['detail']}{hint}" + (f" ({fields})" if fields else "")
    except (ValueError, KeyError):
        return f"{error.code} {error.reason}"


def status(id: UUID, url: BaseUrl = None, as_json: AsJson = False) -> None:
    with exit_on(ApiError):
        _, answer = find(configured_client(url), id, "/status")
    if as_json:
        print_json({"id": id, "status": answer["status"]})
    else:
        say(answer["status"])


def wait(id: UUID, timeout: Deadline = 3600.0, url: BaseUrl = None, as_json: AsJson = False) -> None:
    """Wait until a message or a report ends, and print its status. Exit 0: success, 1: failure, 3: timeout."""
    client = configured_client(url)
    with exit_on(ApiError), exit_on(TimeIsUp, code=3):
        path, _ = find(client, id)
        state = until_end(lambda: client.call(path), timeout)
    status = Status(state["status"])
    if as_json:
        print_json(state)
    else:
        say(status)
    raise typer.Exit(0 if status in SUCCESSES else 1)
