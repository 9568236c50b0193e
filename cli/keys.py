"""`posthaste clients` and `posthaste keys`: who may call, and the keys that they show."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from rich.table import Table

from cli.terminal import console, fail
from infra import logs
from infra.errors import Transient
from infra.keys import OPEN_CLIENT, NewKey, Scope, new_key
from infra.postgres.api_keys import RESERVED, ApiKeyStore, KeyRow
from infra.postgres.pool import DatabasePool
from service.settings import Settings, SettingsError, load

CALL_SECONDS = 10.0
DAY = 86_400.0
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_USUAL = [scope for scope in Scope if scope is not Scope.ADMIN]

clients_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Who may call; each sees its own jobs alone.")
keys_app = typer.Typer(no_args_is_help=True, add_completion=False, help="The keys that clients show.")

Days = Annotated[float | None, typer.Option("--expires", min=0.001, help="Days that it lasts; else for good.")]


@clients_app.command("create")
def create_client(name: str) -> None:
    """Add a client. Jobs that were accepted before there were any keys belong to `default`."""
    if not _NAME.fullmatch(name):
        fail(f"{name!r} is not of the form [a-z0-9][a-z0-9_-]{{0,62}}", 2)
    if not _run(lambda book: book.create_client(name, CALL_SECONDS)):
        fail(f"there is a client {name!r} already")
    console.print(f"client {name} is there; `posthaste keys create {name}` makes a key for it", highlight=False)


@clients_app.command("list")
def list_clients() -> None:
    """Every client, and how many usable keys it has."""
    table = Table("client", "usable keys", "keys", "since")
    for row in _run(lambda book: book.clients(CALL_SECONDS)):
        table.add_row(row.id, str(row.usable), str(row.keys), f"{row.created_at:%Y-%m-%d %H:%M}")
    console.print(table)


@clients_app.command("revoke")
def revoke_client(name: str) -> None:
    """Revoke all keys of a client; within a second no process lets it in."""
    count = _run(lambda book: book.revoke(name, CALL_SECONDS, of_client=True))
    console.print(f"{count} keys of {name} revoked", highlight=False)


@keys_app.command("create")
def create_key(
    client: str,
    scope: Annotated[list[Scope] | None, typer.Option(help="What it may do; else everything but admin.")] = None,
    expires: Days = None,
) -> None:
    """Make a key, and show it: this once."""
    new, seconds = new_key(), expires and expires * DAY
    if not _run(lambda book: book.create_key(client, new, scope or _USUAL, seconds, CALL_SECONDS)):
        fail(f"there is no client {client!r}; `posthaste clients create {client}` adds it")
    _show(new)


@keys_app.command("list")
def list_keys(client: Annotated[str | None, typer.Argument()] = None) -> None:
    """Every key, or a client's: what may be seen of it."""
    table = Table("key", "client", "may", "since", "until", "")
    for row in _run(lambda book: book.keys(client, CALL_SECONDS)):
        until = f"{row.expires_at:%Y-%m-%d %H:%M}" if row.expires_at else ""
        table.add_row(
            f"{row.prefix}_…", row.client_id, " ".join(row.scopes), f"{row.created_at:%Y-%m-%d %H:%M}", until, _state(row)
        )
    console.print(table)


def _state(row: KeyRow) -> str:
    if row.prefix == RESERVED and row.usable:
        return "reserved: posthaste keys first"
    if row.usable:
        return "usable"
    return "revoked" if row.revoked_at else "expired"


@keys_app.command("rotate")
def rotate(
    key: Annotated[str, typer.Argument(help="The visible part: ph_ and eight characters.")],
    overlap: Annotated[float, typer.Option(min=0, help="Hours for which the old one goes on.")] = 24.0,
) -> None:
    """Make a key in the place of another, for the same client and scopes, and show it: this once."""
    new = new_key()
    if not _run(lambda book: book.rotate(_prefix(key), new, overlap * 3600, CALL_SECONDS)):
        fail(f"there is no usable key {_prefix(key)}")
    _show(new)


@keys_app.command("revoke")
def revoke(key: Annotated[str, typer.Argument(help="The visible part: ph_ and eight characters.")]) -> None:
    """Revoke a key; within a second no process lets it in."""
    if not _run(lambda book: book.revoke(_prefix(key), CALL_SECONDS)):
        fail(f"there is no key {_prefix(key)} that could be revoked")
    console.print(f"{_prefix(key)} is revoked", highlight=False)


@keys_app.command("first")
def first() -> None:
    """Show the first key, which may do everything: this once. `posthaste migrate --first-key` reserves it."""
    new = new_key()

    async def take(book: ApiKeyStore) -> bool:
        await book.reserve_first(OPEN_CLIENT, [Scope.ADMIN], CALL_SECONDS)
        return await book.take_first(new, CALL_SECONDS)

    if not _run(take):
        fail("the first key was shown already; `posthaste keys create CLIENT` makes another")
    _show(new)


def reserve_first(settings: Settings) -> bool:
    """Have every request need a key, without making one that could be read from a log. False: there are keys already.

    Raises:
        Unavailable, TryAgain: Postgres does not answer.
    """
    return bool(_with_book(settings, lambda book: book.reserve_first(OPEN_CLIENT, [Scope.ADMIN], CALL_SECONDS)))


def _prefix(text: str) -> str:
    """The visible part, also where the whole key was given."""
    return text[:11].removesuffix("_…")


def _show(new: NewKey) -> None:
    print(new.key)
    console.print("This is shown once. Clients send it as: Authorization: Bearer …", highlight=False, style="dim")


def _run(work: Callable[[ApiKeyStore], Awaitable[Any]]) -> Any:
    try:
        settings = load()
    except SettingsError as error:
        fail(str(error))
    logs.configure("error", json=False)
    try:
        return _with_book(settings, work)
    except Transient as error:
        fail(f"{error}; `posthaste doctor` says more")


def _with_book(settings: Settings, work: Callable[[ApiKeyStore], Awaitable[Any]]) -> Any:
    async def call() -> Any:
        pool = DatabasePool(settings.database_url, name="keys", threads=1)
        try:
            return await work(ApiKeyStore(pool))
        finally:
            pool.close()

    return asyncio.run(call())
