"""The comparison as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.summary import Spread, best, figure, ratio

OWN, BARE = "posthaste", "bare"


@dataclass(frozen=True)
class Column:
    """One figure in a table: its name in the runs, its title, its decimals."""

    name: str
    title: str
    digits: int = 0


RATES = (
    Column("accept_per_second", "accepted/s"),
    Column("accept_p50_ms", "p50 ms"),
    Column("accept_p99_ms", "p99 ms"),
    Column("accept_others", "other answers"),
    Column("status_per_second", "status/s"),
    Column("status_p99_ms", "p99 ms"),
)
DELIVERIES = (
    Column("drain_per_second", "drained/s"),
    Column("sustained_per_second", "sustained/s"),
    Column("sustained_backlog_seconds", "backlog s", 2),
    Column("latency_p50_ms", "POST to provider p50 ms", 1),
    Column("latency_p99_ms", "p99 ms", 1),
)
PROCESSORS = tuple(
    Column(f"cpu_{role}_ms", title, 2)
    for role, title in (
        ("api", "API"),
        ("worker", "worker"),
        ("relay", "relay"),
        ("rabbitmq", "RabbitMQ"),
        ("postgres", "Postgres"),
        ("redis", "Redis"),
    )
)
MEMORY = (
    Column("rss_api_mb", "API"),
    Column("rss_worker_mb", "worker"),
    Column("rss_relay_mb", "relay"),
    Column("processes_worker", "processes of the worker"),
)
KILLS = (
    Column("kill_back_seconds", "first delivery after s", 1),
    Column("kill_settled_seconds", "all accepted before delivered after s", 1),
    Column("kill_lost", "lost"),
    Column("kill_twice", "sent twice"),
)
WITHOUT_KILL = (
    Column("drain_missing", "lost, drain"),
    Column("drain_twice", "twice, drain"),
    Column("sustained_lost", "lost, sustained"),
    Column("sustained_twice", "twice, sustained"),
)
BATCHES = (
    Column("batch_per_second", "messages/s"),
    Column("batch_p99_ms", "p99 ms of a batch"),
    Column("batch_others", "other answers"),
)
SHARES = (
    Column("accept_wrk_share", "wrk, accept", 2),
    Column("status_wrk_share", "wrk, status", 2),
    Column("provider_share", "provider, all stages", 2),
)
CEILINGS = (
    Column("publish_per_second", "confirmed publishes/s through aio-pika"),
    Column("insert_per_second", "rows/s inserted, 64 in a transaction"),
    Column("provider_per_second", "requests/s that the provider answers"),
)
# name, title, whether more is better, whether the bare route has it
COMPARED = (
    ("accept_per_second", "accepted/s", True, True),
    ("status_per_second", "status/s", True, True),
    ("drain_per_second", "drained/s", True, False),
    ("sustained_per_second", "sustained/s", True, False),
    ("latency_p50_ms", "POST to provider, p50 ms", False, False),
)


def markdown(results: Mapping[str, Any]) -> str:
    """The whole report, without a title."""
    return "\n\n".join(
        (
            _circumstances(results),
            "### Accept and status\n\n" + _table(results, RATES),
            "### Deliver\n\n" + _table(results, DELIVERIES, with_bare=False),
            "### Ratios\n\n" + _ratios(results),
            "### Processor milliseconds per message, sustained load\n\n" + _table(results, PROCESSORS, with_bare=False),
            "### Memory (RSS) in MiB, sustained load\n\n" + _table(results, MEMORY, with_bare=False),
            "### SIGKILL of the worker under load\n\n" + _table(results, KILLS, with_bare=False),
            "### Lost and sent twice without a kill\n\n" + _table(results, WITHOUT_KILL, with_bare=False),
            "### Batches of 500 messages, no worker\n\n" + _table(results, BATCHES, names=(OWN,)),
            "### Share of one processor that the measuring takes\n\n" + _table(results, SHARES),
            "### Ceilings\n\n" + _ceilings(results),
            "### Settings\n\n" + _settings(results),
            "### Versions\n\n" + _versions(results),
        )
    )


def number(value: Spread | None, digits: int) -> str:
    """`median (least to greatest)`; a dash without a value."""
    if value is None:
        return "-"
    median, low, high = (f"{each:,.{digits}f}" for each in (value.median, value.low, value.high))
    return median if low == high else f"{median} ({low} to {high})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _circumstances(results: Mapping[str, Any]) -> str:
    machine, options = results["machine"], results["options"]
    loads, busy = [run["load"] for run in results["runs"]], [run["busy"] for run in results["runs"]]
    lines = [
        f"Measured {results['began'][:10]} in {results['minutes']} minutes: {options['repeats']} interleaved repeats, "
        f"{options['seconds']:g} s a stage.",
        f"Machine: {machine['processors']} processors ({machine['model']}), {machine['memory_gb']} GiB, {machine['system']}.",
        f"Other work took {min(busy):.0%} to {max(busy):.0%} of the processors before each run. "
        f"The load average was {min(loads):.1f} to {max(loads):.1f}; earlier runs are part of it.",
        "Figures are medians, with the least and the greatest in brackets.",
    ]
    failed = [
        f"{run['system']} failed in repeat {run['repeat'] + 1}: {run['error']}" for run in results["runs"] if run.get("error")
    ]
    return "\n".join(lines + failed)


def _table(
    results: Mapping[str, Any], columns: Sequence[Column], with_bare: bool = True, names: Sequence[str] | None = None
) -> str:
    """One row a system; columns without any figure are left out."""
    systems = {name: system for name, system in results["systems"].items() if with_bare or name != BARE}
    if names is not None:
        systems = {name: system for name, system in systems.items() if name in names}
    used = [column for column in columns if any(figure(results["runs"], name, column.name) for name in systems)]
    rows = [
        [system["title"], *(number(figure(results["runs"], name, column.name), column.digits) for column in used)]
        for name, system in systems.items()
    ]
    return table(["", *(column.title for column in used)], rows)


def _ratios(results: Mapping[str, Any]) -> str:
    runs, peers = results["runs"], [name for name, system in results["systems"].items() if system["is_peer"]]
    over_rabbitmq = [name for name in peers if results["systems"][name]["queue"] == "RabbitMQ"]
    rows = []
    for name, title, higher, with_bare in COMPARED:
        peer = best(runs, over_rabbitmq, name, higher)
        rows.append(
            [
                title,
                number(ratio(runs, OWN, BARE, name) if with_bare else None, 2),
                number(ratio(runs, OWN, peer, name) if peer else None, 2),
                results["systems"][peer]["title"] if peer else "-",
            ]
        )
    head = ["Posthaste", "to the bare route", "to the best peer on RabbitMQ", "which is"]
    return table(head, rows) + "\n\nA ratio divides figures of the same repeat."


def _ceilings(results: Mapping[str, Any]) -> str:
    rows = [[column.title, number(figure(results["runs"], "ceilings", column.name), column.digits)] for column in CEILINGS]
    return table(["", ""], rows)


def _settings(results: Mapping[str, Any]) -> str:
    rows = [[system["title"], system["settings"]] for system in results["systems"].values()]
    postgres = ", ".join(f"`{name}` {value}" for name, value in results["postgres"].items())
    lines = ["| | |\n| --- | --- |"] + [f"| {title} | {text} |" for title, text in rows]
    return "\n".join(lines) + f"\n\nPostgres: {postgres}."


def _versions(results: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "."
