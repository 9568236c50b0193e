"""One session of a command: its settings, its pool, and its errors as one line and an exit code."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from cli.terminal import exit_on
from infra import logs
from infra.errors import Transient
from infra.postgres.pool import DatabasePool
from service.settings import Settings, SettingsError, load

CALL_SECONDS = 30.0

T = TypeVar("T")


class Session:
    """Settings and, once a command uses it, a pool with one connection."""

    def __init__(self, settings: Settings):
        self.settings = settings

    @cached_property
    def pool(self) -> DatabasePool:
        return DatabasePool(self.settings.database_url, name="command", threads=1, statement_seconds=CALL_SECONDS)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    def close(self) -> None:
        if "pool" in vars(self):
            self.pool.close()


def read_settings(code: int = 1, hint: str = "") -> Settings:
    """The settings. Invalid settings end the command with `code`."""
    with exit_on(SettingsError, code=code, hint=hint):
        return load()


@contextmanager
def open_session(*refusals: type[Exception], hint: str = "", log_level: str = "error") -> Iterator[Session]:
    """Open a session. Transient errors and `refusals` end the command with exit code 1, without a traceback."""
    session = Session(read_settings())
    logs.configure(log_level, json=False)
    try:
        with exit_on(Transient, *refusals, hint=hint):
            yield session
    finally:
        session.close()
