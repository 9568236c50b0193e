"""The screen of `posthaste top`: what is down, rates, queues, processes, dead letters."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.terminal import format_instant
from service.figures import COUNT_LIMIT, Figures, LedgerFigures, ProcessFigures, Rates

SHOWN = 12  # rows of a table; the largest or oldest come first
MINUTES = 40  # characters of a chart
BARS = " ▁▂▃▄▅▆▇█"


def screen(figures: Figures) -> RenderableType:
    """The figures for a terminal of 80 columns or more."""
    parts: list[RenderableType] = [Text(f"posthaste top   {format_instant(figures.at)}", style="bold")]
    parts += [Text(f"{name} is down: {reason}", style="bold red") for name, reason in sorted(figures.down.items())]
    parts.append(_rates(figures.rates))
    if figures.ledger is None:
        parts.append(Text("queues: unknown, as neither a relay nor Postgres answers", style="red"))
    else:
        parts += [_totals(figures.ledger), _queues(figures.ledger), _dead_letters(figures.ledger)]
    parts.append(_processes(figures.processes, figures.at))
    return Group(*parts)


def count(number: int) -> str:
    """A count; those that stopped at the limit have a plus."""
    return f"{number:,}+" if number >= COUNT_LIMIT else f"{number:,}"


def seconds(value: float | None) -> str:
    """A duration with its unit; an empty text without one."""
    if value is None:
        return ""
    if value < 1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.1f} s" if value < 60 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.0f} h"


def chart(values: Sequence[float]) -> str:
    """One character a value, as high as its share of the greatest."""
    top = max(values, default=0.0)
    return "".join(BARS[round(value / top * (len(BARS) - 1))] if top else BARS[0] for value in values)


def _by_minute(values: Sequence[float]) -> list[float]:
    """The means of six intervals each, the latest last."""
    starts = range(len(values) % 6, len(values), 6)
    return [sum(values[start : start + 6]) / 6 for start in starts][-MINUTES:]


def _rates(rates: Sequence[Rates]) -> RenderableType:
    if not rates:
        return Text("rates: unknown, as Redis does not answer", style="red")
    table = Table("per second", "now", f"last {MINUTES} minutes", box=None)
    for name in ("accepted", "sent", "failed", "retried"):
        values = [float(getattr(each, name)) for each in rates]
        table.add_row(name, f"{values[-1]:,.1f}", chart(_by_minute(values)))
    timed = next((each for each in reversed(rates[-6:]) if each.time_to_sent_p50_seconds is not None), None)
    if timed is not None:
        p50, p99 = seconds(timed.time_to_sent_p50_seconds), seconds(timed.time_to_sent_p99_seconds)
        table.add_row("time to sent", "", f"p50 {p50}, p99 {p99}")
    return table


def _totals(ledger: LedgerFigures) -> Text:
    oldest = seconds(ledger.outbox_oldest_seconds)
    text = Text(f"processing {count(ledger.processing)}   outbox due {count(ledger.outbox_due)}")
    if oldest:
        text.append(f", the oldest for {oldest}")
    for provider, at in sorted(ledger.paused.items()):
        text.append(f"\n{provider} is paused since {format_instant(at)}", style="yellow")
    return text


def _queues(ledger: LedgerFigures) -> Table:
    table = Table("queue", "waiting", "oldest", box=None)
    queues = sorted(ledger.queues, key=lambda queue: (-queue.waiting, queue.name))
    for queue in queues[:SHOWN]:
        table.add_row(queue.name, count(queue.waiting), seconds(queue.oldest_seconds))
    return _with_rest(table, len(queues) - SHOWN)


def _dead_letters(ledger: LedgerFigures) -> RenderableType:
    if not ledger.dead_letters:
        return Text("no dead letters")
    table = Table("dead letters", "provider", "reason", "count", box=None)
    groups = sorted(ledger.dead_letters, key=lambda group: -group.count)
    for group in groups[:SHOWN]:
        table.add_row(group.kind, group.provider or "", group.reason, count(group.count))
    return _with_rest(table, len(groups) - SHOWN)


def _processes(processes: Iterable[ProcessFigures], now: datetime) -> Table:
    table = Table("process", "host", "pid", "up for", "in flight", "breakers", box=None)
    for each in processes:
        breakers = ", ".join(f"{name} {state}" for name, state in sorted(each.breakers.items()) if state != "closed")
        up = seconds((now.astimezone(UTC) - each.started_at).total_seconds())
        table.add_row(each.role, each.host, str(each.pid), up, str(each.in_flight), Text(breakers, style="yellow"))
    return table


def _with_rest(table: Table, more: int) -> Table:
    if more > 0:
        table.add_row(f"and {more} more")
    return table
