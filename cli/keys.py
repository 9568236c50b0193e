"""`posthaste clients` and `posthaste keys`: API clients and their keys."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

from cli.session import open_session, read_settings
from cli.terminal import AsJson, console, fail, print_json, problems, say
from infra.keys import OPEN_CLIENT, NewKey, Scope, new_key
from infra.postgres.api_keys import RESERVED, ApiKeyStore, KeyRow
from service.settings import PREFIX

CALL_SECONDS = 10.0
DAY = 86_400.0
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_MINUTE = "%Y-%m-%d %H:%M"
_DEFAULT_SCOPES = [scope for scope in Scope if scope is not Scope.ADMIN]

FIRST_KEY = f"""\
This is the first key: every request needs a key from now on, in every process within a second.
Commands send the key in {PREFIX}API_KEY. `make run` makes a key for its folder when it starts again.
To go back, set {PREFIX}AUTH=off and restart the API. Revoking all keys does not reopen it."""
NO_KEY = f"""\
No usable key is left: every request is rejected with 401.
`posthaste keys create CLIENT` creates a key. {PREFIX}AUTH=off and a restart of the API remove the need for one."""

T = TypeVar("T")

clients_app = typer.Typer(no_args_is_help=True, add_completion=False)
keys_app = typer.Typer(no_args_is_help=True, add_completion=False)


def _prefix(text: str) -> str:
    """The prefix of a prefix or of a whole key."""
    return text[:11].removesuffix("_…")


Prefix = Annotated[str, typer.Argument(metavar="KEY", parser=_prefix, help="The key's prefix: ph_ and eight characters.")]


@clients_app.command("create")
def create_client(name: str) -> None:
    """Create a client. Jobs accepted before the first key belong to the client `default`."""
    if not _NAME.fullmatch(name):
        fail(f"{name!r} does not match [a-z0-9][a-z0-9_-]{{0,62}}", 2)
    if not _run(lambda store: store.create_client(name, CALL_SECONDS)):
        fail(f"client {name!r} exists already")
    say(f"client {name} is created; `posthaste keys create {name}` makes a key for it")


@clients_app.command("list")
def list_clients(as_json: AsJson = False) -> None:
    """List clients with the number of their usable keys."""
    rows = _run(lambda store: store.clients(CALL_SECONDS))
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table("client", "usable keys", "keys", "since")
    for row in rows:
        table.add_row(row.id, str(row.usable), str(row.keys), f"{row.created_at:{_MINUTE}}")
    console.print(table)


@clients_app.command("revoke")
def revoke_client(name: str) -> None:
    """Revoke all keys of a client. Every process rejects them within a second."""
    count = _run(lambda store: store.revoke(name, CALL_SECONDS, of_client=True))
    if not count:
        fail(f"there is no key of a client {name!r} to revoke")
    say(f"{count} keys of {name} revoked")
    _warn_without_keys()


@keys_app.command("create")
def create_key(
    client: str,
    scope: Annotated[list[Scope] | None, typer.Option(help="Scopes of the key. Default: all but admin.")] = None,
    expires: Annotated[float | None, typer.Option(min=0.001, help="Days until the key expires. Default: never.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and show it once. As soon as one key exists, every request needs a key."""
    new, seconds = new_key(), expires and expires * DAY

    async def create(store: ApiKeyStore) -> tuple[bool, bool]:
        is_first = not await store.any(CALL_SECONDS)
        return is_first, await store.create_key(client, new, scope or _DEFAULT_SCOPES, seconds, CALL_SECONDS)

    is_first, created = _run(create)
    if not created:
        fail(f"there is no client {client!r}; `posthaste clients create {client}` creates it")
    _show(new, as_json)
    if is_first:
        _warn(FIRST_KEY)


@keys_app.command("list")
def list_keys(
    client: Annotated[str | None, typer.Argument(help="Only this client's keys.")] = None, as_json: AsJson = False
) -> None:
    """List keys by their prefixes."""
    rows = _run(lambda store: store.keys(client, CALL_SECONDS))
    if as_json:
        print_json([{**asdict(row), "state": _state(row).partition(":")[0]} for row in rows])
        return
    table = Table("key", "client", "scopes", "since", "until", "")
    for row in rows:
        until = f"{row.expires_at:{_MINUTE}}" if row.expires_at else ""
        scopes = " ".join(row.scopes)
        table.add_row(f"{row.prefix}_…", row.client_id, scopes, f"{row.created_at:{_MINUTE}}", until, _state(row))
    console.print(table)


def _state(row: KeyRow) -> str:
    if not row.usable:
        return "revoked" if row.revoked_at else "expired"
    return "reserved: posthaste keys first" if row.prefix == RESERVED else "usable"


@keys_app.command()
def rotate(
    key: Prefix,
    overlap: Annotated[float, typer.Option(min=0, help="Hours until the old key expires.")] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Replace a key by a new one for the same client and scopes, and show the new one once."""
    new = new_key()
    if not _run(lambda store: store.rotate(key, new, overlap * 3600, CALL_SECONDS)):
        fail(f"there is no usable key {key}")
    _show(new, as_json)


@keys_app.command()
def revoke(key: Prefix) -> None:
    """Revoke a key. Every process rejects it within a second."""
    if not _run(lambda store: store.revoke(key, CALL_SECONDS)):
        fail(f"there is no key {key} to revoke")
    say(f"{key} is revoked")
    _warn_without_keys()


@keys_app.command()
def first(as_json: AsJson = False) -> None:
    """Show the first key once. It has every scope. `posthaste migrate --first-key` reserves it."""
    new = new_key()

    async def take(store: ApiKeyStore) -> bool:
        await store.reserve_first(OPEN_CLIENT, [Scope.ADMIN], CALL_SECONDS)
        return await store.take_first(new, CALL_SECONDS)

    if not _run(take):
        fail("the first key was shown already; `posthaste keys create CLIENT` creates another")
    _show(new, as_json)


def _show(new: NewKey, as_json: bool) -> None:
    if as_json:
        print_json({"key": new.key, "prefix": new.prefix})
    else:
        print(new.key)
    problems.print("The key is shown once. Clients send it as: Authorization: Bearer …", highlight=False, style="dim")


def _warn_without_keys() -> None:
    """Warn if no request can be authorized any more."""
    keys = _run(lambda store: store.keys(None, CALL_SECONDS))
    if not any(row.usable and row.prefix != RESERVED for row in keys):
        _warn(NO_KEY)


def _warn(text: str) -> None:
    """Print a warning about required keys, unless they are off."""
    if read_settings().auth != "off":
        problems.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _run(call: Callable[[ApiKeyStore], Coroutine[Any, Any, T]]) -> T:
    with open_session(hint="; see `posthaste doctor`") as (_, pool):
        return asyncio.run(call(ApiKeyStore(pool)))
