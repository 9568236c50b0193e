"""Bulk actions on dead letters: a preview, canaries, and steps of a few hundred letters until none is left.

The form of each answer carries the state of the run, so every API process can continue it. Each step changes only letters that
still are as the preview counted them: they match its filter, failed before it, and are dead. So a repeated form requeues no
letter twice. A page that is closed stops the run after the present step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from uuid import UUID

import structlog
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.callers import caller_of, client_of
from api.console.letters import as_fields, as_query, read_letters
from api.console.pages import Pages, is_fragment
from api.requests import require_provider, validated
from infra.keys import Scope
from infra.postgres.dead_letters import BEFORE_ALL, DeadLetterStore, Filter
from infra.postgres.job_reads import JobReads
from service.dead_letters import CALL_SECONDS, BatchResult, Canaries, DeadLetters

log = structlog.get_logger()

STEP = 500
CANARIES = (1, 5, 20)  # offered numbers
CANARY_SHARE = 0.9  # of the canaries must succeed
_PATHS = {"requeue": "/console/dead-letters/requeue", "discard": "/console/dead-letters/discard"}

Action = Literal["requeue", "discard"]
Number = Annotated[int, Field(ge=0, le=10**9)]


class RunForm(BaseModel, extra="ignore"):
    """The state of a run beside its filter. `total`: of the preview; `expired`, `unconfigured`: letters that were left."""

    provider_to: Annotated[str, Field(max_length=32)] = ""
    extend: bool = False
    canaries: Annotated[int, Field(ge=1, le=100)] = CANARIES[1]
    ids: str = ""  # of the canaries, separated by spaces
    total: Number = 0
    after: UUID = BEFORE_ALL
    changed: Number = 0
    expired: Number = 0
    unconfigured: Number = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A bulk action between two steps. `over`: no letter is left; `stopped`: by the viewer."""

    action: Action
    filter: Filter
    form: RunForm
    judged: Canaries | None = None
    over: bool = False
    stopped: bool = False

    @property
    def provider(self) -> str | None:
        return self.form.provider_to or None

    @property
    def path(self) -> str:
        return _PATHS[self.action]

    @property
    def reached(self) -> int:
        return self.form.changed + self.form.expired + self.form.unconfigured

    @property
    def passed(self) -> bool:
        return self.judged is not None and self.judged.passed(CANARY_SHARE)

    @property
    def fields(self) -> dict[str, str]:
        """The hidden fields of the next form."""
        form = {name: str(value) for name, value in self.form.model_dump(exclude_defaults=True).items()}
        return as_fields(self.filter) | form

    @property
    def query(self) -> str:
        """The filter as a query, without the bound of the preview."""
        return as_query(replace(self.filter, failed_before=None))

    def stepped(self, done: BatchResult) -> "Run":
        """The run after a step."""
        form = self.form.model_copy(
            update={
                "after": done.last or self.form.after,
                "changed": self.form.changed + len(done.moved),
                "expired": self.form.expired + len(done.expired),
                "unconfigured": self.form.unconfigured + len(done.unconfigured),
            }
        )
        return replace(self, form=form, over=done.last is None)


@dataclass(frozen=True, slots=True)
class BulkPages:
    """The endpoints of bulk actions. `providers`: the configured ones."""

    pages: Pages
    store: DeadLetterStore
    letters: DeadLetters
    jobs: JobReads
    providers: Sequence[str]

    async def preview_requeue(self, request: Request) -> Response:
        """The exact number, the filter, and the canaries. The bound excludes letters that fail later."""
        run = self._read(request, "requeue", request.query_params)
        found = await self.letters.preview_requeue(run.filter, run.provider, extend=run.form.extend)
        first = await self.letters.requeueable(
            found.filter, BEFORE_ALL, run.form.canaries, run.provider, extend=run.form.extend
        )
        form = run.form.model_copy(update={"total": found.count, "ids": _joined([letter.id for letter in first])})
        return self._show(request, replace(run, filter=found.filter, form=form), found=found, first=first)

    async def preview_discard(self, request: Request) -> Response:
        run = self._read(request, "discard", request.query_params)
        found = await self.letters.preview(run.filter)
        form = run.form.model_copy(update={"total": found.count})
        return self._show(request, replace(run, filter=found.filter, form=form), found=found)

    async def canaries(self, request: Request) -> Response:
        """Requeue exactly the canaries of the preview. A repeated form changes nothing."""
        run = self._read(request, "requeue", await _form(request))
        ids = _split(run.form.ids)
        only = replace(run.filter, ids=ids)
        done = await self.letters.requeue(only, BEFORE_ALL, len(ids), run.provider, extend=run.form.extend)
        self._log(request, run, done)
        form = run.form.model_copy(update={"changed": run.form.changed + len(done.moved)})
        return await self._judge(request, replace(run, form=form))

    async def watch(self, request: Request) -> Response:
        """The present state of the canaries."""
        return await self._judge(request, self._read(request, "requeue", request.query_params))

    async def requeue(self, request: Request) -> Response:
        """Requeue the next letters."""
        run = self._read(request, "requeue", fields := await _form(request))
        if fields.get("stop") == "yes":
            return await self._stop(request, run)
        done = await self.letters.requeue(run.filter, run.form.after, STEP, run.provider, extend=run.form.extend)
        self._log(request, run, done)
        return self._show(request, run.stepped(done), running=True)

    async def discard(self, request: Request) -> Response:
        """Discard the next letters."""
        run = self._read(request, "discard", fields := await _form(request))
        if fields.get("stop") == "yes":
            return await self._stop(request, run)
        done = await self.letters.discard(run.filter, run.form.after, STEP)
        self._log(request, run, done)
        return self._show(request, run.stepped(done), running=True)

    async def _stop(self, request: Request, run: Run) -> Response:
        """The run without a further step. The ledger tells the number of letters that still match."""
        groups = await self.store.groups(run.filter, CALL_SECONDS)
        return self._show(request, replace(run, stopped=True), remaining=sum(group.count for group in groups))

    async def _judge(self, request: Request, run: Run) -> Response:
        """The page of the canaries. A job of another client is judged as one that does not exist: ids come from a form."""
        caller, states = caller_of(request), await self.jobs.statuses(_split(run.form.ids), CALL_SECONDS)
        visible = [
            state if state and (state.client_id == caller.client_id or caller.may(Scope.ADMIN)) else None for state in states
        ]
        return self._show(request, replace(run, judged=Canaries.of(visible)), running=True)

    def _read(self, request: Request, action: Action, fields: Mapping[str, str]) -> Run:
        form = validated({name: fields[name] for name in RunForm.model_fields if fields.get(name)}, RunForm)
        if form.provider_to:
            require_provider(form.provider_to, self.providers)
        return Run(action, read_letters(request, fields), form)

    def _log(self, request: Request, run: Run, done: BatchResult) -> None:
        action = "dead_letters.requeued" if run.action == "requeue" else "dead_letters.discarded"
        log.info(action, client=client_of(request), jobs=len(done.moved))

    def _show(self, request: Request, run: Run, *, running: bool = False, **values: Any) -> Response:
        """The whole page, or for htmx the part that changes."""
        shown = {"found": None, "first": [], "remaining": None, **values}
        shown |= {"run": run, "running": running, "providers": self.providers, "offered": CANARIES, "step": STEP}
        if is_fragment(request):
            token = request.scope.get("posthaste.form_token", "")
            return self.pages.show(request, "dead_letter_run.html", block="run", form_token=token, **shown)
        return self.pages.show(request, "dead_letter_run.html", **shown)


async def _form(request: Request) -> Mapping[str, str]:
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


def _joined(ids: Sequence[UUID]) -> str:
    return " ".join(map(str, ids))


def _split(ids: str) -> tuple[UUID, ...]:
    """The canaries of a form. Raises a 422 problem for other texts."""
    return tuple(validated({"ids": ids.split()}, _Ids).ids)


class _Ids(BaseModel):
    ids: Annotated[list[UUID], Field(min_length=1, max_length=100)]
