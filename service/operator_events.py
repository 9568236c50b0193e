"""Operator events: the begin and the end of a condition, each sent once, as a signed callback to the operator's URL.

The ledger holds the conditions that have begun. So an event survives the process that saw its cause, and a restart repeats
none. Only one row of a condition exists, however many workers see it.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from infra.postgres.conditions import RELAY, Change
from jobs.model import Kind
from service.figures import LedgerFigures
from service.settings import Settings

CALL_SECONDS = 5.0
FRESH_SECONDS = 10.0  # of a worker's report; it repeats the report every two seconds
_END = 0.5  # of a threshold: a figure at the threshold must not begin and end a condition again and again


class Condition(NamedTuple):
    """A condition of the installation, and its subject: a provider, a kind of job or a queue."""

    name: str
    subject: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The number of dead letters of one kind, and the age of a queue's oldest job, at which a condition begins."""

    dead_letters: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class EventTypes:
    """The types of a condition's two events, and the field that names its subject."""

    begin: str
    end: str
    subject: str | None


EVENTS = {
    "breaker": EventTypes("breaker.opened", "breaker.closed", "provider"),
    "dead_letters": EventTypes("dead_letters.high", "dead_letters.normal", "kind"),
    "age": EventTypes("age.high", "age.normal", "queue"),
    RELAY: EventTypes("relay.lost", "relay.back", None),
}


class Store(Protocol):
    """The conditions in the ledger; see `infra.postgres.conditions`."""

    async def active(self, timeout: float) -> set[tuple[str, str]]: ...
    async def change(self, changes: list[Change], url: str, timeout: float) -> list[UUID]: ...
    async def open_breakers(self, fresh_seconds: float, timeout: float) -> set[str]: ...


def conditions(
    figures: LedgerFigures, open_breakers: Collection[str], thresholds: Thresholds, active: Collection[tuple[str, str]]
) -> dict[Condition, dict[str, Any]]:
    """The conditions that hold, with the data of their events. An active one holds above half of its threshold."""
    found = [*_of_dead_letters(figures, thresholds), *_of_ages(figures, thresholds)]
    held = {condition: data for condition, share, data in found if share >= (_END if condition in active else 1.0)}
    return held | {Condition("breaker", provider): {} for provider in open_breakers}


def _of_dead_letters(figures: LedgerFigures, thresholds: Thresholds) -> Iterator[tuple[Condition, float, dict[str, Any]]]:
    """Each kind with its share of the threshold."""
    counts: Counter[str] = Counter()
    for group in figures.dead_letters:
        counts[group.kind] += group.count
    for kind, count in counts.items():
        data = {"count": count, "threshold": thresholds.dead_letters}
        yield Condition("dead_letters", kind), count / thresholds.dead_letters, data


def _of_ages(figures: LedgerFigures, thresholds: Thresholds) -> Iterator[tuple[Condition, float, dict[str, Any]]]:
    """Each queue with its share of the threshold. The messages of a paused provider wait by an operator's decision."""
    for queue in figures.queues:
        if queue.oldest_seconds is not None and _provider_of(queue.name) not in figures.paused:
            data = {"oldest_seconds": round(queue.oldest_seconds, 1), "threshold_seconds": thresholds.age_seconds}
            yield Condition("age", queue.name), queue.oldest_seconds / thresholds.age_seconds, data


def _provider_of(queue: str) -> str | None:
    kind, _, rest = queue.partition(".")
    return rest.rpartition(".")[0] if kind == f"{Kind.MESSAGE}s" else None


def changes(held: Mapping[Condition, dict[str, Any]], active: Collection[tuple[str, str]]) -> list[Change]:
    """The conditions that begin or end."""
    begun = [_change(condition, data, begins=True) for condition, data in held.items() if condition not in active]
    ended = [_change(Condition(*each), {}, begins=False) for each in active if each not in held and each[0] in EVENTS]
    return begun + ended


def _change(condition: Condition, data: dict[str, Any], *, begins: bool) -> Change:
    types = EVENTS[condition.name]
    subject = {} if types.subject is None else {types.subject: condition.subject}
    return Change(condition.name, condition.subject, begins, types.begin if begins else types.end, {**subject, **data})


RELAY_LOST = _change(Condition(RELAY, ""), {}, begins=True)


def operator_events(store: "Store", settings: Settings) -> "OperatorEvents | None":
    """The events of an installation; None without an operator's URL."""
    if settings.operator_url is None:
        return None
    thresholds = Thresholds(settings.operator_dead_letters, settings.operator_age_seconds)
    return OperatorEvents(store, settings.operator_url, thresholds)


@dataclass(frozen=True, slots=True)
class OperatorEvents:
    """Sends the events of an installation to `url`."""

    store: Store
    url: str
    thresholds: Thresholds
    fresh_seconds: float = FRESH_SECONDS

    async def evaluate(self, figures: LedgerFigures) -> None:
        """Begin and end conditions after a sample of the ledger. An active relay calls it, so the relay is not lost."""
        active = await self.store.active(CALL_SECONDS)
        open_breakers = await self.store.open_breakers(self.fresh_seconds, CALL_SECONDS)
        if changed := changes(conditions(figures, open_breakers, self.thresholds, active), active):
            await self.store.change(changed, self.url, CALL_SECONDS)

    async def relay_lost(self) -> None:
        """Begin the condition that no relay is active."""
        await self.store.change([RELAY_LOST], self.url, CALL_SECONDS)
