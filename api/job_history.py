"""A job's attempts and callbacks, oldest first. Both endpoints are the same for every kind of job."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS, as_json, instant, instant_or_none, job_id
from api.callers import client_of
from api.problems import not_found
from api.shapes import AttemptOut, AttemptsOut, CallbackOut, CallbacksOut
from infra.postgres.job_reads import AttemptRecord, CallbackRecord, JobReads
from jobs.lifecycle import Status
from jobs.model import Kind


@dataclass(frozen=True, slots=True)
class JobHistory:
    """Both raise a 404 problem if the client has no such job of this kind."""

    jobs: JobReads

    async def attempts(self, request: Request, kind: Kind) -> Response:
        records = await self.jobs.attempts(job_id(request), client_of(request), kind, READ_SECONDS)
        if records is None:
            raise not_found()
        answer: AttemptsOut = {"data": [_attempt(record) for record in records]}
        return as_json(answer)

    async def callbacks(self, request: Request, kind: Kind) -> Response:
        records = await self.jobs.callbacks(job_id(request), client_of(request), kind, READ_SECONDS)
        if records is None:
            raise not_found()
        answer: CallbacksOut = {"data": [_callback(record) for record in records]}
        return as_json(answer)


def _attempt(record: AttemptRecord) -> AttemptOut:
    return {
        "revision": record.revision,
        "n": record.n,
        "outcome": record.outcome,
        "reason": record.reason,
        "charged": record.charged,
        "provider_code": record.provider_code,
        "ran_seconds": record.ran_seconds,
        "ended_at": instant(record.ended_at),
    }


def _callback(record: CallbackRecord) -> CallbackOut:
    return {
        "id": record.id,
        "type": record.type,
        "sequence": record.sequence,
        "url": record.url,
        "status": Status(record.status),
        "attempts": record.attempts,
        "reason": record.reason,
        "created_at": instant(record.created_at),
        "finished_at": instant_or_none(record.finished_at),
        "next_attempt_at": instant_or_none(record.next_attempt_at),
    }
