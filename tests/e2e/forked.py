"""Our processes, forked from a server that has imported their modules once: importing takes longer than most tests.

They are processes like any other: they can be killed and stopped, and have an environment and an output of their own.
This module imports next to nothing, as each fork imports it to find its entry point.
"""

import multiprocessing
import os
import runpy
import sys

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "api.__main__", "consumers.__main__", "tests.e2e.forked"])


def become(command: list[str], environment: dict[str, str], log: str) -> None:
    """Do what `python -m command` would do, in `log`'s folder, with all output in `log`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.chdir(os.path.dirname(log))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
