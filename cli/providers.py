"""`posthaste providers`: what waits for each, pause and resume them, and hand what waits for one to another."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import typer
from rich.table import Table

from cli.terminal import console, fail
from infra import logs
from infra.errors import Transient
from infra.postgres.pool import DatabasePool
from infra.postgres.providers import BATCH, ProviderState, ProviderStore
from jobs.model import Priority
from service.settings import Settings, SettingsError, load

CALL_SECONDS = 30.0

app = typer.Typer(no_args_is_help=True, add_completion=False, help="What waits for each provider; pause, resume, move.")


@app.command("list")
def list_() -> None:
    """Every provider that is configured, paused, or that messages wait for."""
    settings = _settings()
    states = _run(settings, lambda book: book.states(CALL_SECONDS))
    table = Table("provider", "url", "waiting", "being sent", "paused since")
    for name in sorted(states.keys() | settings.providers.keys()):
        state = states.get(name, ProviderState(0, 0, None))
        url = settings.providers[name].url if name in settings.providers else "not configured"
        paused = f"{state.paused_at:%Y-%m-%d %H:%M:%S}" if state.paused_at else ""
        table.add_row(name, url, str(state.waiting), str(state.processing), paused)
    console.print(table)


@app.command()
def pause(provider: str) -> None:
    """Send nothing more through it, within a second, in every process; what waits, waits."""
    settings = _known(provider)
    _run(settings, lambda book: book.pause(provider, CALL_SECONDS))
    console.print(f"{provider} is paused; `posthaste providers resume {provider}` ends that", highlight=False)


@app.command()
def resume(provider: str) -> None:
    """Send through it again."""
    _run(_settings(), lambda book: book.resume(provider, CALL_SECONDS))
    console.print(f"{provider} is not paused", highlight=False)


@app.command()
def move(old: str, provider: str = typer.Option(..., "--provider", help="Who shall send them.")) -> None:
    """Hand the messages that wait for a provider (one that was removed, say) to another."""
    settings = _known(provider)

    async def work(book: ProviderStore) -> int:
        total = 0
        for priority in Priority:
            count = BATCH
            while count == BATCH:
                count = await book.move(old, provider, priority, CALL_SECONDS)
                total += count
        return total

    console.print(f"{_run(settings, work)} messages moved from {old} to {provider}", highlight=False)


def _known(provider: str) -> Settings:
    settings = _settings()
    if provider not in settings.providers:
        fail(f"{provider!r} is not configured; there is: {', '.join(sorted(settings.providers)) or 'none'}", 2)
    return settings


def _settings() -> Settings:
    try:
        return load()
    except SettingsError as error:
        fail(str(error))


def _run(settings: Settings, work: Callable[[ProviderStore], Awaitable[Any]]) -> Any:
    logs.configure("error", json=False)

    async def run() -> Any:
        pool = DatabasePool(settings.database_url, name="providers", threads=1)
        try:
            return await work(ProviderStore(pool))
        finally:
            pool.close()

    try:
        return asyncio.run(run())
    except Transient as error:
        fail(str(error))
