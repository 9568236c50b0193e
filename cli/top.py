"""`posthaste top`: the live figures of the installation on one screen."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import orjson
import typer
from rich.live import Live

from cli.session import open_session
from cli.terminal import AsJson, console
from cli.top_screen import screen
from infra.postgres.figures import LedgerSample
from infra.postgres.pool import DatabasePool
from infra.rabbitmq.inspection import answers
from infra.redis.figures import FiguresStore
from service.figures import Figures, FiguresFeed, FiguresReader, LedgerSampler
from service.settings import Settings
from service.vitals import failure

DEGRADED = 3  # the exit code of one sample that names a service which is down

Once = Annotated[bool, typer.Option("--once", help="Print one sample and exit, in a terminal, too.")]


def top(as_json: AsJson = False, once: Once = False) -> None:
    """Show rates, queues, processes and dead letters, live. Without a terminal, print one sample.

    Exit codes of one sample: 0, or 3 if it names a service that is down. Ctrl-C ends the live view with 0.
    """
    with open_session() as (settings, pool):
        if not (as_json or once) and sys.stdout.isatty():
            with suppress(KeyboardInterrupt):
                asyncio.run(_watch(settings, pool))
            return
        figures = asyncio.run(_sample(settings, pool))
    if as_json:
        print(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())
    else:
        console.print(screen(figures))
    raise typer.Exit(DEGRADED if figures.down else 0)


@asynccontextmanager
async def _feed(settings: Settings, pool: DatabasePool) -> AsyncIterator[FiguresFeed]:
    """The figures, read directly: the command needs no API."""
    store = FiguresStore(settings.redis_url, namespace=settings.namespace)
    sampler = LedgerSampler(LedgerSample(pool, settings.providers).take)
    try:
        yield FiguresFeed(FiguresReader(store, sampler, {"rabbitmq": lambda: failure(answers(settings.amqp_url))}))
    finally:
        await store.close()


async def _sample(settings: Settings, pool: DatabasePool) -> Figures:
    async with _feed(settings, pool) as feed:
        return await feed.read()


async def _watch(settings: Settings, pool: DatabasePool) -> None:
    """Show each sample until Ctrl-C."""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        async with _feed(settings, pool) as feed:
            async for figures in feed.watch():
                live.update(screen(figures), refresh=True)
