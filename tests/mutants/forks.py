"""One fork for each mutant: the libraries are imported once, and our modules anew in each fork."""

import importlib
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

# Imported before the forks: each fork would need a second for them.
import aio_pika  # noqa: F401
import psycopg2  # noqa: F401
import pytest
import redis.asyncio  # noqa: F401
import sqlalchemy as sa
import sqlalchemy.dialects.postgresql.psycopg2

from tests.mutants.source import Planted, normal

TESTS = [
    "tests/contract/test_ledger.py",
    *(
        f"tests/integration/test_{name}.py"
        for name in (
            "dead_letter_store",
            "idempotency_keys",
            "ledger_acceptance",
            "ledger_callbacks",
            "ledger_claims",
            "ledger_leases",
            "outbox_and_relay",
            "provider_states",
            "retention",
            "statement_conditions",
            "sweep",
        )
    ),
    "tests/integration/test_races_of_batches.py",
]
# These wait for deadlines, or test the order of locks, which no mutant changes.
LEFT_OUT = ["-k", " and ".join(f"not {word}" for word in ("fake", "overlapping", "frozen", "silent", "contact"))]
SECONDS = 120
_forking = threading.Lock()


@dataclass(eq=False)
class Coverage:
    """By test: the statements that it executes, and how long it takes."""

    statements: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    seconds: dict[str, float] = field(default_factory=dict)
    now: str = ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.now = nodeid

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def executed(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.statements[self.now].add(normal(statement))

    def watch_prepared(self) -> None:
        """Record prepared statements, too. Their executions have only a name."""
        from infra.postgres.prepared import PreparedStatement

        execute = PreparedStatement.execute

        def recorded(prepared: PreparedStatement, connection: sa.Connection, **parameters: Any) -> Any:
            self.executed(None, None, prepared.statement.text)
            return execute(prepared, connection, **parameters)

        PreparedStatement.execute = recorded  # type: ignore[assignment]


def create_database(folder: str) -> str:
    """The name of a migrated database, made for this run."""
    name, log = f"posthaste_mutants_{uuid4().hex[:12]}", Path(folder) / "create.log"
    assert _forked(lambda: _make(name), log) == 0, log.read_text()
    return name


def _make(name: str) -> int:
    from infra.postgres import migration
    from tests.support import services

    found = services.find()
    found.sql(f"CREATE DATABASE {name}")
    migration.migrate(services.with_path(found.database, name), "template")
    return 0


def drop_database(name: str, folder: str) -> None:
    """Delete the database again."""

    def drop() -> int:
        from tests.support import services

        services.find().sql(f"DROP DATABASE {name} WITH (FORCE)")
        return 0

    _forked(drop, Path(folder) / "dropped.log")


def cover(database: str, folder: str) -> Coverage:
    """Run the tests without a mutant, and record the statements that they execute. They must pass."""
    log, coverage_file = Path(folder) / "cover.log", Path(folder) / "coverage"

    def run() -> int:
        coverage = Coverage()
        sa.event.listen(sa.Engine, "before_cursor_execute", coverage.executed)
        coverage.watch_prepared()
        code = pytest.main([*_options(database), *LEFT_OUT, *TESTS], plugins=[coverage])
        coverage_file.write_bytes(pickle.dumps((dict(coverage.statements), coverage.seconds)))
        return int(code)

    assert _forked(run, log) == 0, log.read_text()
    statements, seconds = pickle.loads(coverage_file.read_bytes())  # our own file, written a moment ago
    return Coverage(statements, seconds)


def survives(mutant: Planted, tests: list[str], database: str, folder: str) -> str:
    """The verdict of a mutant: caught, survived, timed out, or not SQL at all."""
    log = Path(folder) / f"{uuid4().hex}.log"

    def run() -> int:
        signal.alarm(SECONDS)
        _import_mutated(mutant)
        return int(pytest.main([*_options(database), "-x", *tests]))

    code = _forked(run, log)
    text = log.read_text(errors="replace")
    if code == 0:
        return "survived"
    if code == -signal.SIGALRM:
        return "timed out"
    return "not SQL" if "syntax error at" in text or "UndefinedColumn" in text or code == 4 else "caught"


def _import_mutated(mutant: Planted) -> None:
    package, _, name = mutant.module.rpartition(".")
    module = ModuleType(mutant.module)
    module.__file__, module.__package__ = str(mutant.path), package
    sys.modules[mutant.module] = module
    setattr(importlib.import_module(package), name, module)
    exec(compile(mutant.source, str(mutant.path), "exec"), module.__dict__)  # our own source, with one change


def _options(database: str) -> list[str]:
    return ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", f"--shared-database={database}"]


def _forked(work: Callable[[], int], log: Path) -> int:
    """Run `work` in a fork whose output goes to `log`; its exit code."""
    with _forking:
        pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = work()
    except BaseException:  # noqa: BLE001  a fork ends here and nowhere else
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
