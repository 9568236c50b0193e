"""Moves of waiting messages from one provider to another, in batches."""

from infra.postgres.providers import BATCH, ProviderStore
from jobs.model import Priority

CALL_SECONDS = 10.0


async def move_some(store: ProviderStore, old: str, new: str, limit: int = BATCH) -> int:
    """Move at most `limit` messages, high priority first; returns how many. 0: none waits for `old`."""
    moved = 0
    for priority in Priority:
        if moved < limit:
            moved += await store.move(old, new, priority, CALL_SECONDS, limit - moved)
    return moved
