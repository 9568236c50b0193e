"""The message endpoints: accept, list, and show one with its status, attempts, callbacks and events."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from uuid_utils.compat import uuid7

from api.answers import READ_SECONDS, as_json, from_cursor, instant, instant_or_none, job_id, page_of
from api.callbacks import CallbackUrls
from api.callers import client_of
from api.idempotency import idempotency_key, read_key, replay_header
from api.job_history import JobHistory
from api.models import BatchIn, MessageIn, MessageQuery
from api.problems import Problem, describe, not_found, problem_from, unavailable
from api.requests import read_model, read_query, require_provider, validated
from api.shapes import AcceptedOut, BatchItemOut, BatchOut, MessageListOut, MessageOut, MessageRowOut
from api.waiting import Waiting, versioned
from infra.postgres.messages import MessageFilter, MessageRecord, MessageRow, Messages
from infra.postgres.transitions.accept import Accepted
from jobs.lifecycle import Status
from jobs.model import Delivery, IdempotencyKey, Kind, NewJob, Priority, message_queue
from service.batching import Batcher
from service.transitions import Acceptance


@dataclass(frozen=True, slots=True)
class MessageEndpoints:
    """The endpoints, and the use cases that they call."""

    acceptance: Acceptance
    waiting: Waiting
    history: JobHistory
    records: Batcher[UUID, MessageRecord | None]
    store: Messages
    callbacks: CallbackUrls
    providers: frozenset[str]
    default_provider: str

    async def post(self, request: Request) -> Response:
        message = await read_model(request, MessageIn)
        accepted = await self._accept(client_of(request), message, idempotency_key(request, message))
        status_url = f"/message/{accepted.id}/status"
        answer: AcceptedOut = {
            "id": accepted.id,
            "status": "queued",
            "created_at": instant(accepted.created_at),
            "links": {"self": f"/messages/{accepted.id}", "status": status_url},
        }
        return as_json(answer, 202, {"Location": status_url, **replay_header(accepted.replayed)})

    async def post_batch(self, request: Request) -> Response:
        """Validate each message separately, and accept the valid ones together. A key covers each item by its index."""
        batch = await read_model(request, BatchIn)
        read_key(request)  # an invalid header is one problem, not one for each item
        accepting = (self._accept_item(request, index, fields) for index, fields in enumerate(batch.messages))
        results = [_result(result) for result in await asyncio.gather(*accepting, return_exceptions=True)]
        _raise_if_none_was_recorded(results)
        answer: BatchOut = {"data": [_item(index, result) for index, result in enumerate(results)]}
        replayed = all(isinstance(result, Accepted) and result.replayed for result in results)
        return as_json(answer, 202, replay_header(replayed))

    async def _accept_item(self, request: Request, index: int, fields: object) -> Accepted:
        message = validated(fields, MessageIn)
        return await self._accept(client_of(request), message, idempotency_key(request, message, index))

    async def _accept(self, client_id: str, message: MessageIn, key: IdempotencyKey | None) -> Accepted:
        provider = message.provider or self.default_provider
        require_provider(provider, self.providers)
        callback_url = self.callbacks.resolve(message)
        return await self.acceptance.accept(_job(client_id, provider, message, callback_url, key))

    async def list(self, request: Request) -> Response:
        """The client's messages, newest first."""
        query = read_query(request, MessageQuery)
        before = None if query.cursor is None else from_cursor(query.cursor, UUID)
        status = None if query.status is None else Status(query.status)
        filter_ = MessageFilter(status, query.destination, query.tag, query.reference)
        rows = await self.store.page(client_of(request), filter_, before, query.limit + 1, READ_SECONDS)
        page, cursor = page_of(rows, query.limit, lambda row: row.id)
        answer: MessageListOut = {"data": [_row(row) for row in page], "next_cursor": cursor}
        return as_json(answer)

    async def status(self, request: Request) -> Response:
        return await self.waiting.status(request, Kind.MESSAGE)

    async def events(self, request: Request) -> Response:
        return await self.waiting.events(request, Kind.MESSAGE)

    async def attempts(self, request: Request) -> Response:
        return await self.history.attempts(request, Kind.MESSAGE)

    async def list_callbacks(self, request: Request) -> Response:
        return await self.history.callbacks(request, Kind.MESSAGE)

    async def record(self, request: Request) -> Response:
        applied = await self.waiting.first(request, Kind.MESSAGE)
        record = await self.records.submit(job_id(request), READ_SECONDS)
        if record is None or record.client_id != client_of(request):
            raise not_found()
        return versioned(request, record.version, _record(record), applied)


def _result(result: Accepted | BaseException) -> Accepted | Problem:
    """An item's acceptance or problem. A defect is raised."""
    if isinstance(result, Accepted):
        return result
    problem = problem_from(result)
    if problem is None:
        raise result
    return problem


def _raise_if_none_was_recorded(results: Sequence[Accepted | Problem]) -> None:
    """Answer a batch with one 503 if every item has one."""
    problems = [result for result in results if isinstance(result, Problem) and result.status == 503]
    if len(problems) < len(results):
        return
    if {problem.code for problem in problems} == {"backlog_full"}:
        raise problems[0]
    raise unavailable("The database did not answer in time. The number of accepted messages is unknown.")


def _item(index: int, result: Accepted | Problem) -> BatchItemOut:
    if isinstance(result, Problem):
        return {"index": index, "problem": describe(result)}
    return {"index": index, "id": result.id, "status": "queued"}


def _job(client_id: str, provider: str, message: MessageIn, callback_url: str | None, key: IdempotencyKey | None) -> NewJob:
    return NewJob(
        uuid7(),
        client_id,
        message_queue(provider, Priority(message.priority)),
        message.destination,
        message.body,
        Delivery(message.delivery),
        message.reference,
        tuple(message.tags),
        message.metadata,
        key,
        callback_url,
    )


def _row(message: MessageRow | MessageRecord) -> MessageRowOut:
    return {
        "id": message.id,
        "status": message.status,
        "version": message.version,
        "destination": message.destination,
        "provider": message.provider,
        "priority": message.priority,
        "reference": message.reference,
        "tags": message.tags,
        "attempts": message.attempts,
        "reason": message.reason,
        "created_at": instant(message.created_at),
        "updated_at": instant(message.updated_at),
        "finished_at": instant_or_none(message.finished_at),
        "links": _links(message.id),
    }


def _record(message: MessageRecord) -> MessageOut:
    return {
        **_row(message),
        "body": message.body,
        "delivery": message.delivery,
        "metadata": message.metadata,
        "callback_url": message.callback_url,
        "provider_message_id": message.provider_message_id,
        "next_attempt_at": instant_or_none(message.next_attempt_at),
    }


def _links(id_: UUID) -> dict[str, str]:
    links = {"self": f"/messages/{id_}", "status": f"/message/{id_}/status"}
    return links | {name: f"/messages/{id_}/{name}" for name in ("attempts", "callbacks", "events")}
