"""A command's settings and database pool; its errors become one line and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

from cli.terminal import exit_on
from infra import logs
from infra.errors import Transient
from infra.postgres.pool import DatabasePool
from service.settings import Settings, SettingsError, load

CALL_SECONDS = 30.0


def read_settings(code: int = 1, hint: str = "") -> Settings:
    """The settings. Invalid settings end the command with `code`."""
    with exit_on(SettingsError, code=code, hint=hint):
        return load()


@contextmanager
def open_session(
    *refusals: type[Exception], hint: str = "", log_level: str = "error"
) -> Iterator[tuple[Settings, DatabasePool]]:
    """The settings, and a pool with one connection. Transient errors and `refusals` end the command with exit code 1."""
    settings = read_settings()
    logs.configure(log_level, json=False)
    pool = DatabasePool(settings.database_url, name="command", threads=1, statement_seconds=CALL_SECONDS)
    try:
        with exit_on(Transient, *refusals, hint=hint):
            yield settings, pool
    finally:
        pool.close()
