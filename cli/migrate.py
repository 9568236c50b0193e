"""`posthaste migrate`: the database's schema, and the reservation of the first API key."""

from typing import Annotated

import typer

from cli.keys import reserve_first
from cli.session import open_session
from cli.terminal import say
from infra.postgres import compatibility, migration

REFUSALS = (migration.MigrationBlocked, compatibility.ForeignNamespace, migration.WrongEncoding, migration.RoleMissing)


def migrate(
    first_key: Annotated[
        bool,
        typer.Option("--first-key", help="Reserve the first API key unless a key exists. `posthaste keys first` shows it."),
    ] = False,
) -> None:
    with open_session(*REFUSALS, log_level="warning") as session:
        settings = session.settings
        role = migration.role_of(settings.database_url)
        revision = migration.migrate(settings.owner_url, settings.namespace, runtime_role=role)
        reserved = first_key and session.run(reserve_first(session.pool))
    say(f"migrate: the schema is at revision {revision}")
    if reserved:
        say("migrate: every request needs an API key; `posthaste keys first` shows the first one")
