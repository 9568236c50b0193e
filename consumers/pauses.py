"""Provider pauses: operators pause providers in the ledger, and every worker applies it within a second."""

import asyncio
from collections.abc import Mapping

from consumers.gate import Gate
from infra.errors import Transient
from infra.outage_log import OutageLog
from infra.postgres.providers import ProviderStore

POLL_SECONDS = 0.5


class ProviderPauses:
    """Reads the paused providers periodically and pauses their gates."""

    def __init__(self, store: ProviderStore, gates: Mapping[str, Gate]):
        self._store = store
        self._gates = gates

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
            await asyncio.sleep(POLL_SECONDS)
