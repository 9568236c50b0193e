"""Provider pauses: operators pause providers in the ledger, and every worker applies it within a second."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from consumers.gate import Gate
from infra.errors import Transient
from infra.outage_log import OutageLog

POLL_SECONDS = 0.5


class Store(Protocol):
    """The paused providers in the ledger."""

    async def paused(self, timeout: float) -> frozenset[str]: ...


class ProviderPauses:
    """Reads the paused providers periodically and pauses their gates."""

    def __init__(self, store: Store, gates: Mapping[str, Gate]):
        self._store = store
        self._gates = gates
        self._loaded = asyncio.Event()

    async def run(self) -> None:
        """Poll until cancelled. A worker without gates has nothing to pause."""
        outage = OutageLog("provider_pauses", "the last pauses stay in force")
        while self._gates:
            try:
                paused = await self._store.paused(4 * POLL_SECONDS)
            except Transient as error:
                outage.failed(error)
            else:
                outage.succeeded()
                for name, gate in self._gates.items():
                    gate.pause(name in paused)
                self._loaded.set()
            await asyncio.sleep(POLL_SECONDS)
        self._loaded.set()

    async def then(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run once the pauses are loaded: a worker that starts must not consume the queues of a paused provider."""
        await self._loaded.wait()
        await run()
