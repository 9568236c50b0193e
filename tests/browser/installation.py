"""A running installation with every process, a callback receiver, and jobs of every kind and status."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from aiohttp import web

from jobs.reports import ReportParameters
from tests.support.receiver import CALLBACKS_ON, Receiver, receiving
from tests.support.results import insert_result
from tests.support.services import Services
from tests.support.stack import REPORTS, Stack, running
from tests.support.waiting import eventually

JOBS, SCHEDULES = "/api/2.0/report/jobs", "/api/2.0/report/schedules"
HOSTILE = """<script>window.stolen = 1</script><img src=x onerror="window.stolen = 1">'"`{{ 7 * 7 }}${7*7}"""
_POSTS = """
INSERT INTO posts (user_id, context, created_at)
SELECT 1 + n % 40, repeat('word ', CAST(1 + (n * 7919) % (60 - n % 40) AS integer)), now() FROM generate_series(1, 4000) n
"""

_LETTERS = """
INSERT INTO jobs (id, client_id, kind, provider, priority, destination, body, status, version, reason, finished_at)
SELECT CAST('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0') AS uuid), 'default', 'message', 'sandbox', 'normal', '+1',
    'hello', 'failed', 3, '{reason}', now() FROM generate_series(1, {count}) n
"""


@dataclass
class Installation:
    """A stack with reporter, caller and the receiver of its callbacks."""

    stack: Stack
    receiver: Receiver
    paths: dict[str, str] = field(default_factory=dict)

    async def break_provider(self, status: int = 400) -> None:
        """Every message is rejected from now on."""
        await self.stack.faults(fail=1.0, fail_status=status)

    async def repair_provider(self) -> None:
        await self.stack.faults(fail=0.0)

    async def dead_letters(self, count: int, status: int = 400, **fields: Any) -> list[str]:
        """Messages that the provider rejects with this status, which names their reason."""
        await self.break_provider(status)
        ids = [await self.stack.submit(f"+1555{number:04}", **fields) for number in range(count)]
        for id_ in ids:
            await self.stack.becomes(id_, "failed")
        await self.repair_provider()
        return ids

    def add_dead_letters(self, count: int, reason: str) -> None:
        """Dead letters that no provider has seen."""
        self.stack.rows(_LETTERS.format(count=count, reason=reason))

    async def report(self) -> str:
        """The id of a new report."""
        async with self.stack.session.post(self.stack.base + REPORTS) as response:
            assert response.status == 202, await response.text()
            return str((await response.json())["id"])

    def fill_posts(self) -> None:
        self.stack.rows(_POSTS)

    async def filled(self) -> dict[str, str]:
        """Jobs of every kind and status, once. Returns the paths of their pages, by name."""
        self.paths = self.paths or await self._fill()
        return self.paths

    async def _fill(self) -> dict[str, str]:
        stack, hook, before = self.stack, f"{self.receiver.url}/hooks/orders", await self._callbacks("sent")
        self.fill_posts()
        report = await self.report()
        await self._schedules()
        sent = [await stack.submit(f"+1555{n:04}", tags=["welcome"], callback_url=hook) for n in range(20)]
        labels = {"reference": HOSTILE, "tags": [HOSTILE[:60]]}
        hostile = await stack.submit("+1 <b>bold</b>", HOSTILE, **labels, metadata={HOSTILE: HOSTILE})
        for id_ in (*sent, hostile):
            await stack.becomes(id_, "sent")
        retried = await self._retried(hook)
        await eventually(lambda: self._callbacks("sent"), lambda count: count == before + len(sent) + 1)
        await self._dead_callback()
        await self.dead_letters(7, reference="order-1042")
        await self.dead_letters(1, 422, **labels)
        rejected = await stack.submit("+15550300", provider="other")
        await stack.becomes(rejected, "failed")
        await eventually(lambda: stack.get(f"{JOBS}/{report}/status"), lambda answer: answer[1]["status"] == "completed")
        messages = {"message": retried, "hostile": hostile, "rejected": rejected}
        reports = {"report": insert_charted_result(stack.database), "computed": report}
        return {name: f"/console/messages/{id_}" for name, id_ in messages.items()} | {
            name: f"/console/reports/{id_}" for name, id_ in reports.items()
        }

    async def _schedules(self) -> None:
        """A schedule whose report has started, and one that waits."""
        for name, cron in (("nightly", "0 6 * * *"), ("weekly-top-users", "30 7 * * MON")):
            body = {"name": name, "cron": cron, "timezone": "Europe/Berlin", "report": {"order": "words", "limit": 10}}
            async with self.stack.session.post(self.stack.base + SCHEDULES, json=body) as response:
                assert response.status in (200, 201), await response.text()
        self.stack.rows("UPDATE report_schedules SET next_at = now() WHERE name = 'nightly'")

    async def _dead_callback(self) -> None:
        before, self.receiver.answer = await self._callbacks("failed"), 500
        await self.stack.submit("+15550100", callback_url=f"http://localhost:{self.receiver.port}/down")
        await eventually(lambda: self._callbacks("failed"), lambda count: count > before)
        self.receiver.answer = 204

    async def _retried(self, callback_url: str) -> str:
        """The id of a message that was sent at its fourth attempt or later."""
        await self.break_provider(500)
        id_ = await self.stack.submit("+15550400", "Your code is 4711", tags=["login"], callback_url=callback_url)
        await eventually(lambda: self.stack.record(id_), lambda record: record["attempts"] >= 3)
        await self.repair_provider()
        await self.stack.becomes(id_, "sent")
        return id_

    async def _callbacks(self, status: str) -> int:
        return len(self.stack.rows(f"SELECT id FROM jobs WHERE kind = 'callback' AND status = '{status}'"))


def insert_charted_result(database: str) -> UUID:
    """A completed report with an uneven number of words by user, and lengths around 55 words with a long tail."""
    totals = {1 + (user + 5) * 37 % 1009: 1 + 240_000 // (user + 1) for user in range(480)}
    lengths = [(words, round(4000 * math.exp(-(((words - 55) / 22) ** 2)))) for words in range(4, 130)]
    parameters = ReportParameters(start=datetime(2026, 1, 1, tzinfo=UTC), order="words", histogram=True)
    return insert_result(database, totals, parameters, histogram=[*lengths, (640, 9), (2100, 2)])


async def _reject(request: web.Request) -> web.Response:
    return web.Response(status=418, text=HOSTILE)


@asynccontextmanager
async def installed(services: Services, database: str, namespace: str, folder: Path) -> AsyncIterator[Installation]:
    """Start all processes. The provider `other` rejects messages, with markup in its answers."""
    settings = {**CALLBACKS_ON, "callback_retry_seconds": "[0.2, 0.2]", "default_provider": "sandbox"}
    async with (
        receiving() as receiver,
        receiving(answers=[_reject] * 100) as other,
        running(services, database, namespace, folder, others={"other": {"url": other.url}}, **settings) as stack,
    ):
        stack.start("reporter", "consumers", "reports")
        stack.start("caller", "consumers", "callbacks")
        yield Installation(stack, receiver)
