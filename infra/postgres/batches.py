"""Batches of ledger calls: what every caller of a transition wants of `infra.batching`."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TypeVar

from infra.batching import Batcher

Item = TypeVar("Item")
Result = TypeVar("Result")


def ledger_batcher(
    flush: Callable[[Sequence[Item], float], Awaitable[Sequence[Result]]],
    *,
    key: Callable[[Item], Hashable] | None = None,
    twin: Callable[[Item], Result] | None = None,
) -> Batcher[Item, Result]:
    """A batcher that drops nothing: transient errors are retried until the deadline, any other error is one item's own."""
    return Batcher(flush, key=key, twin=twin, repeat_transient=True, isolate=(Exception,))
