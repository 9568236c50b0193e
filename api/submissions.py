"""Submissions become jobs: under the `Idempotency-Key` of their request, with the callback URL that the SSRF guard admits.

A repeated request gets the first one's answer and creates no second job (draft-ietf-httpapi-idempotency-key-header). A key
belongs to one client and route, for one day.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from uuid_utils.compat import uuid7

from api.callers import client_of
from api.models import MessageIn, ReportIn
from api.problems import invalid
from api.shapes import FieldProblem
from infra.postgres.transitions.accept import Accepted
from infra.webhooks.guard import Guard, Refused
from jobs.model import IdempotencyKey, NewJob, WorkQueue
from service.transitions import Acceptance

_HEADER = "Idempotency-Key"
_VISIBLE_ASCII = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class Submissions:
    """Accepts jobs. `default_callback_url`: for jobs without the field; `callbacks`: signing secrets exist."""

    acceptance: Acceptance
    guard: Guard
    default_callback_url: str | None
    callbacks: bool

    async def accept(
        self, request: Request, submission: MessageIn | ReportIn, queue: WorkQueue, index: int | None = None, **fields: Any
    ) -> Accepted:
        """Accept the submission, or item `index` of a batch. Raises a 422 problem of key or URL, and as `Acceptance.accept`."""
        key = _idempotency_key(request, submission, index)
        url = self._callback_url(submission)
        return await self.acceptance.accept(NewJob(uuid7(), client_of(request), queue, key=key, callback_url=url, **fields))

    def _callback_url(self, submission: MessageIn | ReportIn) -> str | None:
        """The request's callback URL, else the default. None: no callbacks."""
        if "callback_url" not in submission.model_fields_set:
            return self.default_callback_url
        self.check_callback_url(submission.callback_url, "/callback_url")
        return submission.callback_url

    def check_callback_url(self, url: str | None, pointer: str) -> None:
        """Raise a 422 problem of the field at `pointer` unless callbacks may go to this URL. None: no callbacks."""
        if url is None:
            return
        if not self.callbacks:
            detail = "is not supported here: POSTHASTE_CALLBACK_SECRETS is not set"
            raise invalid(FieldProblem(pointer, "callbacks_off", detail))
        try:
            self.guard.check(url)
        except Refused as error:
            raise invalid(FieldProblem(pointer, "refused_url", str(error))) from error


def _idempotency_key(request: Request, submission: MessageIn | ReportIn, index: int | None) -> IdempotencyKey | None:
    key = read_key(request)
    if key is None:
        return None
    route = request.url.path if index is None else f"{request.url.path}#{index}"
    # The fingerprint omits defaults: a release that adds a field still recognises a repeated request.
    canonical = orjson.dumps(submission.model_dump(exclude_defaults=True), option=orjson.OPT_SORT_KEYS)
    return IdempotencyKey(route, key, hashlib.sha256(canonical).hexdigest())


def read_key(request: Request) -> str | None:
    """The header's value; None without it. Raises a 422 problem if it is repeated or malformed."""
    values = request.headers.getlist(_HEADER)
    if len(values) > 1:
        raise invalid(FieldProblem(_HEADER, "repeated", "is repeated"))
    if values and not _VISIBLE_ASCII.fullmatch(values[0]):
        raise invalid(FieldProblem(_HEADER, "wrong_format", "must be 1 to 255 visible ASCII characters"))
    return values[0] if values else None


def replay_header(replayed: bool) -> dict[str, str]:
    """The header that marks the answer of a repeated request."""
    return {"Idempotent-Replayed": "true"} if replayed else {}
