"""Handlers: each executes one claimed job and returns its outcome. They never acknowledge, commit, or raise to mean "retry".

`consumers/reports/run.py` has that of reports.
"""

import time
from typing import Protocol

from consumers.hosts import Hosts, Receiver, host_of
from infra.monitoring import metrics
from infra.providers.http import HttpProvider
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome


class CallbackSender(Protocol):
    async def send(self, url: str, id_: str, body: str) -> Outcome: ...


async def send_message(provider: HttpProvider, job: Claimed, progress: Progress) -> Outcome:
    """Send a message through its provider."""
    assert job.destination is not None and job.body is not None  # every message has both
    started = time.perf_counter()
    outcome = await provider.send(job.destination, job.body, job.idempotency_key)
    metrics.PROVIDER_SECONDS[job.queue.provider or "", outcome.verdict].observe(time.perf_counter() - started)
    return outcome


async def send_callback(sender: CallbackSender, hosts: Hosts, job: Claimed, progress: Progress) -> Outcome:
    """Post a callback to its URL. The event id is the job id."""
    assert job.destination is not None and job.body is not None  # every callback has both
    url, body = job.destination, job.body
    return await hosts.call(Receiver(job.client_id, host_of(url)), lambda: _send_measured(sender, url, str(job.id), body))


async def _send_measured(sender: CallbackSender, url: str, id_: str, body: str) -> Outcome:
    started = time.perf_counter()
    outcome = await sender.send(url, id_, body)
    metrics.CALLBACK_SECONDS[outcome.verdict,].observe(time.perf_counter() - started)
    return outcome
