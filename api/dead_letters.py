"""The dead-letter endpoints: browse, requeue and discard. The command line calls the same use cases."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS, as_json, from_cursor, page_of
from api.callers import caller_of
from api.jobs import BASES
from api.models import DeadLetterBatch, DeadLetterFilter, DeadLetterQuery, DeadLetterRequeue
from api.problems import unavailable
from api.requests import read_model, read_query, require_provider
from api.shapes import DeadLetterListOut, DeadLetterOut, DiscardedOut, RequeuedOut
from infra.errors import Transient
from infra.keys import Scope
from infra.postgres.dead_letters import BEFORE_ALL, DeadLetter, DeadLetterStore, Filter
from service.dead_letters import DeadLetters

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DeadLetterEndpoints:
    """The endpoints, and the use cases that they call. The relay removes stale copies from the dead queues."""

    store: DeadLetterStore
    letters: DeadLetters
    providers: frozenset[str]

    async def list(self, request: Request) -> Response:
        """One page, by id."""
        query = read_query(request, DeadLetterQuery)
        after = from_cursor(query.cursor, UUID, BEFORE_ALL)
        rows = await self.store.page(filter_of(request, query), after, query.limit + 1, READ_SECONDS)
        page, cursor = page_of(rows, query.limit, lambda row: row.id)
        answer: DeadLetterListOut = {"data": [_row(letter) for letter in page], "next_cursor": cursor}
        return as_json(answer)

    async def requeue(self, request: Request) -> Response:
        batch = await read_model(request, DeadLetterRequeue)
        if batch.provider is not None:
            require_provider(batch.provider, self.providers)
        filter_, answer = filter_of(request, batch.filter, batch.ids), RequeuedOut()
        if batch.dry_run:
            found = await self.letters.requeueable(filter_, BEFORE_ALL, batch.limit, batch.provider, extend=batch.extend)
            answer["would_requeue"] = [letter.id for letter in found]
        else:
            try:
                done = await self.letters.requeue(
                    filter_, BEFORE_ALL, batch.limit, batch.provider, extend=batch.extend, skip=True
                )
            except Transient as error:
                detail = "The database does not answer. The outcome of this request is unknown."
                raise unavailable(f"{detail} A repeated request requeues no letter twice.") from error
            log.info("dead_letters.requeued", client=caller_of(request).client_id, jobs=len(done.moved))
            answer |= {"requeued": done.moved, "unconfigured_provider": done.unconfigured, "expired": done.expired}
        return as_json(answer)

    async def discard(self, request: Request) -> Response:
        batch = await read_model(request, DeadLetterBatch)
        filter_, answer = filter_of(request, batch.filter, batch.ids), DiscardedOut()
        if batch.dry_run:
            found = await self.store.page(filter_, BEFORE_ALL, batch.limit, READ_SECONDS)
            answer["would_discard"] = [letter.id for letter in found]
        else:
            done = await self.letters.discard(filter_, BEFORE_ALL, batch.limit)
            log.info("dead_letters.discarded", client=caller_of(request).client_id, jobs=len(done.moved))
            answer["discarded"] = done.moved
        return as_json(answer)


def filter_of(request: Request, query: DeadLetterFilter, ids: Sequence[UUID] | None = None) -> Filter:
    """The store's filter: the caller's own letters, and those of all clients for admins."""
    caller = caller_of(request)
    fields = {name: getattr(query, name) for name in DeadLetterFilter.model_fields}
    return Filter(**fields, ids=tuple(ids or ()), client_id=None if caller.may(Scope.ADMIN) else caller.client_id)


def _row(letter: DeadLetter) -> DeadLetterOut:
    base = f"{BASES[letter.kind]}/{letter.id}" if letter.kind in BASES else None
    fields = {name: value for name, value in asdict(letter).items() if name != "client_id"}
    return DeadLetterOut(**fields, links={} if base is None else {"self": base, "attempts": f"{base}/attempts"})
