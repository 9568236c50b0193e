"""Stacks that the tests of a module reuse: the next test gets the stack that the one before left unchanged."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import psycopg2

from cli.sandbox import Sandbox
from dev.ports import free_port
from dev.stack import as_variables, environment_without_settings, local_sandbox, serving
from infra.rabbitmq.topology import describe
from tests.support.databases import Databases
from tests.support.processes import Process
from tests.support.services import Services, drop_namespace, sql, unique
from tests.support.stack import PROCESSES, QUICK, Stack, client, provider_at

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 1.0  # for the last messages of a test

# Rows whose state is also in the memory of a process, which keeps it after their deletion.
_TRACES = """
SELECT EXISTS (SELECT FROM jobs WHERE status NOT IN ('sent', 'completed', 'failed', 'discarded')) OR EXISTS (SELECT FROM outbox)
    OR EXISTS (SELECT FROM attempts WHERE outcome NOT IN ('accepted', 'rejected')) OR EXISTS (SELECT FROM provider_pauses)
    OR EXISTS (SELECT FROM report_schedules) OR EXISTS (SELECT FROM open_breakers) OR EXISTS (SELECT FROM operator_conditions)
"""


@dataclass
class _Kept:
    """The processes of a stack without proxies, and what they use."""

    described: str
    commands: dict[str, tuple[str, ...]]
    namespace: str
    database: str
    folder: Path
    environment: dict[str, str]
    port: int
    sandbox_port: int
    resources: ExitStack
    processes: dict[str, Process] = field(default_factory=dict)

    def stack(self, services: Services, sandbox: Sandbox, session: aiohttp.ClientSession) -> Stack:
        return Stack(
            services, self.database, self.namespace, self.folder, {}, dict(self.environment), self.port, sandbox, session,
            dict(self.processes),
        )  # fmt: skip


@dataclass
class Stacks:
    """The stacks of one module. They have no proxies, so no test can cut their connections."""

    services: Services
    databases: Databases
    folder: Path
    idle: list[_Kept] = field(default_factory=list)

    @asynccontextmanager
    async def lent(
        self, *, provider: dict[str, Any] | None = None, others: dict[str, tuple[str, ...]] | None = None, **settings: str
    ) -> AsyncIterator[Stack]:
        """Lend a ready stack with empty tables, empty queues and a new sandbox. End it afterwards if the test changed it.

        `provider`, `settings`: other settings; `others`: more processes.
        """
        described = json.dumps([provider, others, settings])
        idle = [kept for kept in self.idle if kept.described == described]
        kept = idle[0] if idle else self._new(described, provider or {}, others or {}, settings)
        self.idle = [each for each in self.idle if each is not kept]
        sandbox = local_sandbox(port=kept.sandbox_port)
        is_unchanged = False
        async with client() as session, serving(sandbox):
            stack = kept.stack(self.services, sandbox, session)
            try:
                for name, command in kept.commands.items():
                    if name not in kept.processes:
                        kept.processes[name] = stack.start(name, *command)
                await stack.until_all_up()
                yield stack
                is_unchanged = (
                    stack.processes == kept.processes and await self._is_unchanged(kept) and await self._cleared(kept)
                )
            finally:
                if is_unchanged:
                    self.idle.append(kept)
                else:
                    for process in stack.processes.values():
                        process.end()
                    await self._end(kept)

    def close(self) -> None:
        """End the idle stacks."""
        for kept in self.idle:
            asyncio.run(self._end(kept))

    def _new(
        self, described: str, provider: dict[str, Any], others: dict[str, tuple[str, ...]], settings: dict[str, str]
    ) -> _Kept:
        namespace, port, sandbox_port = unique("reused"), free_port(), free_port()
        resources = ExitStack()
        database = resources.enter_context(self.databases.lent(namespace))
        folder = self.folder / namespace
        folder.mkdir()
        all_settings = {
            **QUICK,
            "rate_per_address": QUICK["rate_per_key"],  # the requests of all its tests count together
            "database_url": database,
            "amqp_url": self.services.amqp,
            "redis_url": self.services.redis,
            "namespace": namespace,
            "port": str(port),
            "providers": json.dumps({"sandbox": {**provider_at(sandbox_port), **provider}}),
            **settings,
        }
        environment, commands = environment_without_settings() | as_variables(all_settings), {**PROCESSES, **others}
        return _Kept(described, commands, namespace, database, folder, environment, port, sandbox_port, resources)

    async def _is_unchanged(self, kept: _Kept) -> bool:
        """Whether all processes run, and no row has state that is also in their memory. Jobs may end meanwhile."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while sql(kept.database, _TRACES) != [(False,)]:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return all(process.is_alive() for process in kept.processes.values())

    async def _cleared(self, kept: _Kept) -> bool:
        """Delete all rows and messages. An API that has seen a key requires keys until its end, so it ends.

        False if the deletion and a statement of a process waited for each other.
        """
        if sql(kept.database, "SELECT EXISTS (SELECT FROM api_keys)") == [(True,)]:
            kept.processes.pop("api").end()
        try:
            self.databases.empty(kept.database)
        except psycopg2.Error as error:
            log.info("the stack %s is discarded: %s", kept.namespace, error)
            return False
        async with await aio_pika.connect(self.services.amqp) as connection:
            channel = await connection.channel()
            for queue in describe(kept.namespace, ["sandbox"]).queues:
                await (await channel.get_queue(queue.name, ensure=False)).purge()
        return True

    async def _end(self, kept: _Kept) -> None:
        for process in kept.processes.values():
            process.end()
        kept.resources.close()
        await drop_namespace(self.services.amqp, kept.namespace, ["sandbox"])
