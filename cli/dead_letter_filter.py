"""The filter of dead letters as options of a command."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any
from uuid import UUID

import typer

from infra.postgres.dead_letters import Filter
from jobs.lifecycle import Status
from jobs.model import Kind

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class DeadStatus(StrEnum):
    """Statuses of dead letters."""

    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """The filter's options. A dead letter matches if it matches every option that is set."""

    kind: Annotated[Kind | None, typer.Option(help="Only this kind.")] = None
    status: Annotated[DeadStatus | None, typer.Option(help="Only failed, or only unknown.")] = None
    of_provider: Annotated[str | None, typer.Option(help="Only this provider.")] = None
    reason: Annotated[str | None, typer.Option(help="Only this reason, e.g. http_400 or attempts_exhausted.")] = None
    destination: Annotated[str | None, typer.Option(help="Only this destination.")] = None
    tag: Annotated[str | None, typer.Option(help="Only this tag.")] = None
    reference: Annotated[str | None, typer.Option(help="Only this reference.")] = None
    older_than: Annotated[str | None, typer.Option(help="Only failures before this age, e.g. 15m, 6h, 2d.")] = None
    newer_than: Annotated[str | None, typer.Option(help="Only failures since this age, e.g. 15m, 6h, 2d.")] = None
    before: Annotated[datetime | None, typer.Option(help="Only failures before this instant (UTC).")] = None
    id: Annotated[list[UUID] | None, typer.Option(help="Only this id. Repeatable.")] = None

    def filter(self) -> Filter:
        now = datetime.now(UTC)
        bounds = [self.before.replace(tzinfo=UTC)] if self.before else []
        bounds += [now - _age(self.older_than)] if self.older_than else []
        return Filter(
            kind=self.kind,
            status=Status(self.status) if self.status else None,
            provider=self.of_provider,
            reason=self.reason,
            destination=self.destination,
            tag=self.tag,
            reference=self.reference,
            failed_after=now - _age(self.newer_than) if self.newer_than else None,
            failed_before=min(bounds, default=None),
            ids=tuple(self.id or ()),
        )


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's first parameter, a `Filter`, by the options of `FilterOptions`."""
    options = inspect.signature(FilterOptions).parameters
    _, *others = inspect.signature(command).parameters.values()

    @wraps(command)
    def run(**arguments: Any) -> None:
        filter_ = FilterOptions(**{name: arguments.pop(name) for name in options})
        command(filter_.filter(), **arguments)

    parameters = [*options.values(), *(other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _age(text: str) -> timedelta:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise typer.BadParameter(f"{text!r} is not an age like 90s, 15m, 6h or 2d")
    return timedelta(seconds=int(number) * _UNITS[unit])
