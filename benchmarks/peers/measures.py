"""Figures from times of arrival: rates, latencies, what was lost, what was sent twice, how long a gap lasted."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

Arrivals = Mapping[str, Sequence[float]]


def quantile(values: Sequence[float], percent: int) -> float:
    """The value below which `percent` of the values lie. One value is its own quantile."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def first_arrivals(arrivals: Arrivals) -> list[float]:
    """When each message arrived first, sorted."""
    return sorted(times[0] for times in arrivals.values())


def middle_rate(times: Sequence[float]) -> float:
    """Arrivals per second between the 5th and the 95th percentile of the sorted times; 0.0 with fewer than 20."""
    if len(times) < 20:
        return 0.0
    first, last = len(times) // 20, len(times) - len(times) // 20 - 1
    return (last - first) / (times[last] - times[first])


def rate_between(times: Iterable[float], start: float, end: float) -> float:
    """Arrivals per second from `start` to `end`."""
    return sum(start <= time < end for time in times) / (end - start)


def latencies_ms(sent_at: Mapping[str, float], arrivals: Arrivals) -> list[float]:
    """Milliseconds from request to first arrival, of the messages that arrived."""
    return [1000 * (arrivals[body][0] - at) for body, at in sent_at.items() if body in arrivals]


def lost(accepted: Iterable[str], arrivals: Arrivals) -> int:
    """The number of accepted messages that never arrived."""
    return sum(body not in arrivals for body in accepted)


def twice(arrivals: Arrivals) -> int:
    """The number of messages that arrived more than once."""
    return sum(len(times) > 1 for times in arrivals.values())


def back_after(times: Sequence[float], killed: float, in_flight_seconds: float = 0.2) -> float | None:
    """Seconds from the kill to the next delivery. Calls under way at the kill, which still arrive, do not count."""
    later = [time for time in times if time > killed + in_flight_seconds]
    return min(later) - killed if later else None
