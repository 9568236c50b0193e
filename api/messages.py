"""The message routes: accept one, tell its status, show its record."""

import asyncio
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import READ_SECONDS, as_json, cursor_for, from_cursor, instant, job_id, presentable, rows_answer
from api.callbacks import CallbackUrls
from api.callers import client_of
from api.idempotency import idempotency_key, key_reused, read_key, replay_header
from api.models import BatchIn, MessageIn, MessageQuery
from api.problems import FieldError, Problem, backlog_full, describe, not_found, unavailable
from api.requests import read_model, read_query, validated
from api.waiting import Waiting, versioned
from infra.postgres.errors import BadData
from infra.postgres.lists import MessageFilter, MessageLists
from infra.postgres.queries import MessageRecord, Queries
from infra.postgres.transitions.accept import Accepted
from jobs.lifecycle import Status
from jobs.model import Delivery, IdempotencyKey, Kind, NewJob, Priority, message_queue
from service.acceptance import Acceptance, KeyTaken, new_job_id
from service.backlog import BacklogFull
from service.batching import Batcher, DeadlineExceeded, Overloaded


@dataclass(frozen=True, slots=True)
class MessageRoutes:
    """The handlers and what they need."""

    acceptance: Acceptance
    waiting: Waiting
    records: Batcher[UUID, MessageRecord | None]
    queries: Queries
    lists: MessageLists
    callbacks: CallbackUrls
    providers: frozenset[str]
    default_provider: str

    def routes(self) -> list[Route]:
        return [
            Route("/messages", self.post, methods=["POST"]),
            Route("/messages", self.list, methods=["GET"]),
            Route("/messages/batch", self.post_batch, methods=["POST"]),
            Route("/message/{id:job}/status", self.status, methods=["GET"]),
            Route("/messages/{id:job}/status", self.status, methods=["GET"]),
            Route("/messages/{id:job}", self.record, methods=["GET"]),
            Route("/messages/{id:job}/events", self.events, methods=["GET"]),
            Route("/messages/{id:job}/attempts", self.attempts, methods=["GET"]),
            Route("/messages/{id:job}/callbacks", self.list_callbacks, methods=["GET"]),
        ]

    async def post(self, request: Request) -> Response:
        message = await read_model(request, MessageIn)
        accepted = await self._accept(client_of(request), message, idempotency_key(request, message))
        status_url = f"/message/{accepted.id}/status"
        answer = {
            "id": str(accepted.id),
            "status": "queued",
            "created_at": instant(accepted.created_at),
            "links": {"self": f"/messages/{accepted.id}", "status": status_url},
        }
        return as_json(answer, 202, {"Location": status_url, **replay_header(accepted.replayed)})

    async def post_batch(self, request: Request) -> Response:
        """Judge each message by itself; those that are well are accepted together. A key covers each item by its index."""
        batch = await read_model(request, BatchIn)
        read_key(request)  # a bad one is not each item's fault
        accepting = (self._accept_item(request, index, fields) for index, fields in enumerate(batch.messages))
        answers = await asyncio.gather(*accepting, return_exceptions=True)
        items: list[dict[str, Any]] = []
        for index, answer in enumerate(answers):
            if isinstance(answer, Problem):
                items.append({"index": index, "problem": describe(answer)})
            elif isinstance(answer, BaseException):
                raise answer
            else:
                items.append({"index": index, "id": str(answer.id), "status": "queued"})
        codes = {answer.code if isinstance(answer, Problem) and answer.status == 503 else "" for answer in answers}
        if codes == {"backlog_full"} and isinstance(answers[0], Problem):
            raise answers[0]
        if "" not in codes:
            raise unavailable("The database did not confirm in time; which messages were accepted is unknown.")
        replayed = all(isinstance(answer, Accepted) and answer.replayed for answer in answers)
        return as_json({"data": items}, 202, replay_header(replayed))

    async def _accept_item(self, request: Request, index: int, fields: Any) -> Accepted:
        message = validated(fields, MessageIn)
        return await self._accept(client_of(request), message, idempotency_key(request, message, index))

    async def _accept(self, client_id: str, message: MessageIn, key: IdempotencyKey | None) -> Accepted:
        provider = message.provider or self.default_provider
        if provider not in self.providers:
            error = FieldError("/provider", "unknown_provider", f"must be one of: {', '.join(sorted(self.providers))}")
            raise Problem(422, "validation", "Not valid: /provider.", errors=[error])
        callback_url = self.callbacks.resolve(message)
        try:
            return await self.acceptance.accept(_job(client_id, provider, message, callback_url, key))
        except BacklogFull as error:  # here, as it may be one item of a batch
            raise backlog_full(error) from error
        except KeyTaken as error:
            raise key_reused() from error
        except DeadlineExceeded as error:
            raise unavailable("The database did not confirm in time; whether the message was accepted is unknown.") from error
        except Overloaded as error:
            raise unavailable("Too many requests are waiting for the database; the message was not accepted.") from error
        except BadData as error:
            raise Problem(422, "validation", "The database refuses a value of this message.") from error

    async def list(self, request: Request) -> Response:
        """The client's messages, newest first."""
        query = read_query(request, MessageQuery)
        before = None if query.cursor is None else from_cursor(query.cursor, UUID)
        status = None if query.status is None else Status(query.status)
        like = MessageFilter(status, query.destination, query.tag, query.reference)
        found = await self.lists.page(client_of(request), like, before, query.limit + 1, READ_SECONDS)
        shown = found[: query.limit]
        cursor = cursor_for(str(shown[-1].id)) if len(found) > query.limit else None
        rows = [{**presentable(asdict(each)), "links": _links(each.id)} for each in shown]
        return as_json({"data": rows, "next_cursor": cursor})

    async def status(self, request: Request) -> Response:
        return await self.waiting.status(request, Kind.MESSAGE)

    async def events(self, request: Request) -> Response:
        return await self.waiting.events(request, Kind.MESSAGE)

    async def attempts(self, request: Request) -> Response:
        return await rows_answer(self.queries.attempts, Kind.MESSAGE, request)

    async def list_callbacks(self, request: Request) -> Response:
        return await rows_answer(self.queries.callbacks, Kind.MESSAGE, request)

    async def record(self, request: Request) -> Response:
        applied = await self.waiting.first(request, Kind.MESSAGE)
        record = await self.records.submit(job_id(request), READ_SECONDS)
        if record is None or record.client_id != client_of(request):
            raise not_found()
        shown = presentable(asdict(record))
        del shown["client_id"]
        return versioned(request, record.version, {**shown, "links": _links(record.id)}, applied)


def _job(client_id: str, provider: str, message: MessageIn, callback_url: str | None, key: IdempotencyKey | None) -> NewJob:
    return NewJob(
        new_job_id(),
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


def _links(id_: UUID) -> dict[str, str]:
    links = {"self": f"/messages/{id_}", "status": f"/message/{id_}/status"}
    return links | {name: f"/messages/{id_}/{name}" for name in ("attempts", "callbacks", "events")}
