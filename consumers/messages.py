"""The handler of messages: sends them through their provider."""

from dataclasses import dataclass

from infra.providers.http import HttpProvider
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome


@dataclass(frozen=True)
class SendMessage:
    """Sends one claimed message through one provider."""

    provider: HttpProvider

    @property
    def timeout_seconds(self) -> float:
        return self.provider.timeout_seconds

    async def __call__(self, job: Claimed, progress: Progress) -> Outcome:
        assert job.destination is not None and job.body is not None  # every message has both
        return await self.provider.send(job.destination, job.body, job.idempotency_key)
