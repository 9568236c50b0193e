"""The dead-letter routes: browse, requeue and discard, by the same implementation as the command."""

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import READ_SECONDS, as_json, cursor_for, from_cursor, presentable
from api.callers import caller_of, client_of
from api.models import DeadLetterBatch, DeadLetterFilter, DeadLetterQuery, DeadLetterRequeue
from api.problems import FieldError, Problem, unavailable
from api.requests import read_model, read_query
from infra.errors import Transient
from infra.postgres.dead_letters import BEFORE_ALL, DeadLetter, DeadLetterStore, Filter
from jobs.lifecycle import Status
from jobs.model import Kind
from service.dead_letters import DeadLetters


@dataclass(frozen=True, slots=True)
class DeadLetterRoutes:
    """The handlers and what they need. The dead queues themselves are tidied by the relay."""

    store: DeadLetterStore
    letters: DeadLetters
    providers: frozenset[str]

    def routes(self) -> list[Route]:
        return [
            Route("/dead-letters", self.list, methods=["GET"]),
            Route("/dead-letters/requeue", self.requeue, methods=["POST"]),
            Route("/dead-letters/discard", self.discard, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """One page of those that fit, by id."""
        query = read_query(request, DeadLetterQuery)
        after = BEFORE_ALL if query.cursor is None else from_cursor(query.cursor, UUID)
        found = await self.store.page(_filter(request, query), after, query.limit + 1, READ_SECONDS)
        shown = found[: query.limit]
        cursor = cursor_for(str(shown[-1].id)) if len(found) > query.limit else None
        return as_json({"data": [_to_json(each) for each in shown], "next_cursor": cursor})

    async def requeue(self, request: Request) -> Response:
        """Queue them anew."""
        batch = await read_model(request, DeadLetterRequeue)
        if batch.provider is not None and batch.provider not in self.providers:
            error = FieldError("/provider", "unknown_provider", f"must be one of: {', '.join(sorted(self.providers))}")
            raise Problem(422, "validation", "Not valid: /provider.", errors=[error])
        query = _filter(request, batch.filter, batch.ids)
        try:
            if batch.dry_run:
                found = await self.letters.requeueable(query, BEFORE_ALL, batch.limit, batch.provider, extend=batch.extend)
                return as_json({"would_requeue": [str(each.id) for each in found]})
            done = await self.letters.requeue_first(query, BEFORE_ALL, batch.limit, batch.provider, extend=batch.extend)
        except Transient as error:
            raise unavailable("The database does not answer; send the same request again, nothing is queued twice.") from error
        return as_json(
            {
                "requeued": list(map(str, done.moved)),
                "unconfigured_provider": list(map(str, done.unconfigured)),
                "expired": list(map(str, done.expired)),
            }
        )

    async def discard(self, request: Request) -> Response:
        """End them for good."""
        batch = await read_model(request, DeadLetterBatch)
        if batch.dry_run:
            found = await self.store.page(_filter(request, batch.filter, batch.ids), BEFORE_ALL, batch.limit, READ_SECONDS)
            return as_json({"would_discard": [str(each.id) for each in found]})
        try:
            done = await self.letters.discard(_filter(request, batch.filter, batch.ids), BEFORE_ALL, batch.limit)
        except Transient as error:
            raise unavailable("The database does not answer; send the same request again.") from error
        return as_json({"discarded": list(map(str, done.moved))})


def _filter(request: Request, query: DeadLetterFilter, ids: "list[UUID] | None" = None) -> Filter:
    return Filter(
        kind=Kind(query.kind) if query.kind else None,
        status=Status(query.status) if query.status else None,
        provider=query.provider,
        reason=query.reason,
        destination=query.destination,
        tag=query.tag,
        reference=query.reference,
        failed_after=query.failed_after,
        failed_before=query.failed_before,
        ids=tuple(ids) if ids is not None else (),
        client_id=None if caller_of(request).sees_all else client_of(request),
    )


_BASES = {Kind.MESSAGE: "/messages", Kind.REPORT: "/api/2.0/report/jobs"}  # callbacks have no routes of their own


def _to_json(letter: DeadLetter) -> dict[str, Any]:
    base = f"{_BASES[letter.kind]}/{letter.id}" if letter.kind in _BASES else None
    links = {} if base is None else {"self": base, "attempts": f"{base}/attempts"}
    return {**presentable(asdict(letter)), "id": str(letter.id), "links": links}
