"""When a job is tried again: exponential backoff with full jitter."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` charged attempts at most, within `deadline_seconds` of acceptance; delays in seconds."""

    attempts: int = 8
    base_seconds: float = 1.0
    cap_seconds: float = 300.0
    deadline_seconds: float = 86_400.0


def backoff_seconds(policy: RetryPolicy, charged: int, jitter: float) -> float:
    """The delay after the `charged`-th failed attempt (from 1), with `jitter` drawn uniformly from [0, 1).

    Full jitter: uniform in [0, min(cap, base * 2 ** (charged - 1))), from Marc Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015.
    """
    exponent = min(charged - 1, 62)  # beyond it the cap has long won, and a float would overflow
    return jitter * min(policy.cap_seconds, policy.base_seconds * 2.0**exponent)
