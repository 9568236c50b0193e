"""The dead-letter endpoints: browse, requeue and discard. The command line calls the same use cases."""

from dataclasses import dataclass
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS, as_json, from_cursor, instant, page_of
from api.callers import caller_of
from api.models import DeadLetterBatch, DeadLetterFilter, DeadLetterQuery, DeadLetterRequeue
from api.report_jobs import JOBS
from api.requests import read_model, read_query, require_provider
from api.shapes import DeadLetterListOut, DeadLetterOut, DiscardedOut, RequeuedOut
from infra.postgres.dead_letters import BEFORE_ALL, DeadLetter, DeadLetterStore, Filter
from jobs.lifecycle import Status
from jobs.model import Kind
from service.dead_letters import DeadLetters

log = structlog.get_logger()

_BASES = {Kind.MESSAGE: "/messages", Kind.REPORT: JOBS}  # no operation shows a callback by itself


@dataclass(frozen=True, slots=True)
class DeadLetterEndpoints:
    """The endpoints, and the use cases that they call. The relay removes stale copies from the dead queues."""

    store: DeadLetterStore
    letters: DeadLetters
    providers: frozenset[str]

    async def list(self, request: Request) -> Response:
        """One page, by id."""
        query = read_query(request, DeadLetterQuery)
        after = BEFORE_ALL if query.cursor is None else from_cursor(query.cursor, UUID)
        rows = await self.store.page(_filter(request, query), after, query.limit + 1, READ_SECONDS)
        page, cursor = page_of(rows, query.limit, lambda row: row.id)
        answer: DeadLetterListOut = {"data": [_row(letter) for letter in page], "next_cursor": cursor}
        return as_json(answer)

    async def requeue(self, request: Request) -> Response:
        batch = await read_model(request, DeadLetterRequeue)
        if batch.provider is not None:
            require_provider(batch.provider, self.providers)
        filter_, answer = _filter(request, batch.filter, batch.ids), RequeuedOut()
        if batch.dry_run:
            found = await self.letters.requeueable(filter_, BEFORE_ALL, batch.limit, batch.provider, extend=batch.extend)
            answer["would_requeue"] = [letter.id for letter in found]
        else:
            done = await self.letters.requeue(filter_, BEFORE_ALL, batch.limit, batch.provider, extend=batch.extend, skip=True)
            log.info("dead_letters.requeued", client=caller_of(request).client_id, jobs=len(done.moved))
            answer |= {"requeued": done.moved, "unconfigured_provider": done.unconfigured, "expired": done.expired}
        return as_json(answer)

    async def discard(self, request: Request) -> Response:
        batch = await read_model(request, DeadLetterBatch)
        filter_, answer = _filter(request, batch.filter, batch.ids), DiscardedOut()
        if batch.dry_run:
            found = await self.store.page(filter_, BEFORE_ALL, batch.limit, READ_SECONDS)
            answer["would_discard"] = [letter.id for letter in found]
        else:
            done = await self.letters.discard(filter_, BEFORE_ALL, batch.limit)
            log.info("dead_letters.discarded", client=caller_of(request).client_id, jobs=len(done.moved))
            answer["discarded"] = done.moved
        return as_json(answer)


def _filter(request: Request, query: DeadLetterFilter, ids: list[UUID] | None = None) -> Filter:
    caller = caller_of(request)
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
        ids=tuple(ids or ()),
        client_id=None if caller.is_operator else caller.client_id,
    )


def _row(letter: DeadLetter) -> DeadLetterOut:
    base = f"{_BASES[letter.kind]}/{letter.id}" if letter.kind in _BASES else None
    return {
        "id": letter.id,
        "version": letter.version,
        "status": letter.status,
        "kind": letter.kind,
        "provider": letter.provider,
        "priority": letter.priority,
        "destination": letter.destination,
        "reference": letter.reference,
        "tags": letter.tags,
        "reason": letter.reason,
        "last_reason": letter.last_reason,
        "provider_code": letter.provider_code,
        "attempts": letter.attempts,
        "revision": letter.revision,
        "created_at": instant(letter.created_at),
        "failed_at": instant(letter.failed_at),
        "age_seconds": letter.age_seconds,
        "links": {} if base is None else {"self": base, "attempts": f"{base}/attempts"},
    }
