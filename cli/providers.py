"""`posthaste providers`: the queued messages of each provider; pause, resume and move."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from cli.session import CALL_SECONDS, open_session
from cli.terminal import AsJson, console, fail, format_instant, print_json, say
from infra.postgres.providers import BATCH, ProviderState, ProviderStore
from jobs.model import Priority
from service.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List providers that are configured or paused or that have queued messages."""
    with open_session() as (settings, pool):
        states = asyncio.run(ProviderStore(pool).states(CALL_SECONDS))
    urls = {name: provider.url for name, provider in settings.providers.items()}
    listed = {name: states.get(name, ProviderState(0, 0, None)) for name in sorted(states.keys() | urls.keys())}
    if as_json:
        print_json([{"name": name, "url": urls.get(name), **asdict(state)} for name, state in listed.items()])
        return
    table = Table("provider", "url", "waiting", "processing", "paused since")
    for name, state in listed.items():
        paused = format_instant(state.paused_at) if state.paused_at else ""
        table.add_row(name, urls.get(name, "not configured"), str(state.waiting), str(state.processing), paused)
    console.print(table)


@app.command()
def pause(provider: str) -> None:
    """Pause a provider: within a second every process stops sending through it. Its messages stay queued."""
    with open_session() as (settings, pool):
        _require_configured(settings, provider)
        done = asyncio.run(ProviderStore(pool).pause(provider, CALL_SECONDS))
    say(f"{provider} {'is' if done else 'was already'} paused; `posthaste providers resume {provider}` resumes it")


@app.command()
def resume(provider: str) -> None:
    """Resume a provider."""
    with open_session() as (settings, pool):
        done = asyncio.run(ProviderStore(pool).resume(provider, CALL_SECONDS))
        if not done:
            _require_configured(settings, provider)
    say(f"{provider} is resumed" if done else f"{provider} is not paused; nothing changed")


@app.command()
def move(old: str, provider: Annotated[str, typer.Option(help="The new provider.")]) -> None:
    """Move a provider's queued messages to another provider, for example after its removal."""
    with open_session() as (settings, pool):
        _require_configured(settings, provider)
        count = asyncio.run(_move(ProviderStore(pool), old, provider))
    say(f"{count} messages moved from {old} to {provider}")


async def _move(store: ProviderStore, old: str, provider: str) -> int:
    total = 0
    for priority in Priority:
        count = BATCH
        while count == BATCH:
            count = await store.move(old, provider, priority, CALL_SECONDS)
            total += count
    return total


def _require_configured(settings: Settings, provider: str) -> None:
    if provider not in settings.providers:
        fail(f"{provider!r} is not configured; configured are: {', '.join(sorted(settings.providers)) or 'none'}", 2)
