"""The message endpoints: accept, list, and those of every job."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS, as_json, from_cursor, page_of
from api.callers import client_of
from api.jobs import JobEndpoints, Waiting
from api.models import BatchIn, MessageIn, MessageQuery
from api.problems import Problem, describe, problem_from, unavailable
from api.requests import read_model, read_query, require_provider, validated
from api.shapes import AcceptedOut, BatchItemOut, BatchOut, MessageListOut, MessageOut, MessageRowOut
from api.submissions import Submissions, read_key, replay_header
from infra.postgres.job_reads import BEHIND_ALL, JobReads, MessageRecord, MessageRow
from infra.postgres.transitions.accept import Accepted
from jobs.model import Delivery, Kind, Priority, message_queue


class MessageEndpoints(JobEndpoints[MessageRecord]):
    """The endpoints of messages, for the configured providers."""

    def __init__(
        self, submissions: Submissions, jobs: JobReads, waiting: Waiting, providers: frozenset[str], default_provider: str
    ):
        super().__init__(Kind.MESSAGE, jobs, jobs.messages, _record, waiting)
        self._submissions = submissions
        self._providers = providers
        self._default_provider = default_provider

    async def post(self, request: Request) -> Response:
        accepted = await self._accept(request, await read_model(request, MessageIn))
        links = _first_links(accepted.id)
        answer: AcceptedOut = {"id": accepted.id, "status": "queued", "created_at": accepted.created_at, "links": links}
        return as_json(answer, 202, {"Location": links["status"], **replay_header(accepted.replayed)})

    async def post_batch(self, request: Request) -> Response:
        """Validate each message separately, and accept the valid ones together. A key covers each item by its index."""
        batch = await read_model(request, BatchIn)
        read_key(request)  # an invalid header is one problem, not one for each item
        results = await asyncio.gather(*(self._accept_item(request, index, each) for index, each in enumerate(batch.messages)))
        _raise_if_none_was_recorded(results)
        answer: BatchOut = {"data": [_item(index, result) for index, result in enumerate(results)]}
        replays = [result.replayed for result in results if isinstance(result, Accepted)]
        return as_json(answer, 202, replay_header(bool(replays) and all(replays)))

    async def _accept_item(self, request: Request, index: int, fields: object) -> Accepted | Problem:
        """An item's acceptance or problem. A defect is raised."""
        try:
            return await self._accept(request, validated(fields, MessageIn), index)
        except Exception as error:
            if (problem := problem_from(error)) is None:
                raise
            return problem

    async def _accept(self, request: Request, message: MessageIn, index: int | None = None) -> Accepted:
        provider = message.provider or self._default_provider
        require_provider(provider, self._providers)
        return await self._submissions.accept(
            request,
            message,
            message_queue(provider, Priority(message.priority)),
            index,
            destination=message.destination,
            body=message.body,
            delivery=Delivery(message.delivery),
            reference=message.reference,
            tags=tuple(message.tags),
            metadata=message.metadata,
        )

    async def list(self, request: Request) -> Response:
        """The client's messages, newest first."""
        query = read_query(request, MessageQuery)
        before = from_cursor(query.cursor, UUID, BEHIND_ALL)
        filters = query.model_dump(exclude={"limit", "cursor"}, exclude_none=True)
        rows = await self._jobs.message_page(client_of(request), filters, before, query.limit + 1, READ_SECONDS)
        page, cursor = page_of(rows, query.limit, lambda row: row["id"])
        answer: MessageListOut = {"data": [_row(row) for row in page], "next_cursor": cursor}
        return as_json(answer)


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
    item: BatchItemOut = {"index": index, "id": result.id, "status": "queued"}
    return {**item, "replayed": True} if result.replayed else item


def _row(message: MessageRow) -> MessageRowOut:
    return {**message, "links": _links(message["id"])}


def _record(message: MessageRecord) -> MessageOut:
    return {**message, "links": _links(message["id"])}


def _first_links(id_: UUID) -> dict[str, str]:
    text = str(id_)
    return {"self": f"/messages/{text}", "status": f"/message/{text}/status"}


def _links(id_: UUID) -> dict[str, str]:
    return _first_links(id_) | {name: f"/messages/{id_}/{name}" for name in ("attempts", "callbacks", "events")}
