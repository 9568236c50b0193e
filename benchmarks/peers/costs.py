"""Processor time and memory of processes, each with its children."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from dev.process import Process


@dataclass(frozen=True)
class Cost:
    """Processor seconds since the start, resident bytes now, and the number of processes."""

    seconds: float
    bytes: int
    processes: int


def cost(process: Process) -> Cost:
    """The cost of a process and its descendants. Ended children count by what their parent reaped."""
    seconds, size, count = 0.0, 0, 0
    for member in process.family():
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(member.pid)
            times = found.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
            size += found.memory_info().rss
            count += 1
    return Cost(seconds, size, count)


def costs(processes: Mapping[str, Process]) -> dict[str, Cost]:
    return {role: cost(process) for role, process in processes.items()}


def milliseconds_each(before: Mapping[str, Cost], after: Mapping[str, Cost], messages: int) -> dict[str, float]:
    """Processor milliseconds for each message, by role."""
    return {role: 1000 * (after[role].seconds - before[role].seconds) / max(messages, 1) for role in after if role in before}
