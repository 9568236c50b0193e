"""Processes and commands of the service, forked from a server that has imported their modules: imports cost more than a test.

Each fork is an ordinary process with its own environment and output; tests can stop and kill it.
This module imports almost nothing, because each fork imports it to find its entry point.
"""

import gc
import multiprocessing
import os
import runpy
import sys

FORKS = multiprocessing.get_context("forkserver")
# No `__main__`: runpy warns about a module that is imported before it runs. No `cli`: its console reads the environment at
# import, and each fork has its own.
_OURS = [
    "api.app",
    "api.request_timeout",
    "consumers.relay_process",
    "consumers.worker",
    "infra.logs",
    "infra.postgres.compatibility",
    "infra.rabbitmq.dead_queue",
]
_LIBRARIES = ["faker", "psycopg2.extras", "pytest", "sqlalchemy.dialects.postgresql.psycopg2", "stringprep", "urllib.request"]
_SERVERS = ["uvicorn.lifespan.on", "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl"]
_TERMINAL = ["rich._emoji_codes", "rich.console", "rich.progress", "rich.table", "typer", "typer._adapters"]
FORKS.set_forkserver_preload([*_OURS, *_LIBRARIES, *_SERVERS, *_TERMINAL, "tests.support.forked"])


def become(command: list[str], environment: dict[str, str], log: str, errors: str | None = None) -> None:
    """Run `python -m command` in the folder of `log`. Output goes to `log`; errors too, unless `errors` names a file."""
    gc.freeze()  # no collection reads the inherited objects: each reading copies their pages
    for descriptor, file in ((1, log), (2, errors or log)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    # A daemon may have no children, and the consumer of reports has some.
    multiprocessing.process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    os.chdir(os.path.dirname(log))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
