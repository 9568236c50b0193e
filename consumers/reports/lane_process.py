"""The process of a lane, and the server that it is forked from.

This module imports little, so that the server can start before its caller imports the rest.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from contextlib import suppress
from multiprocessing import forkserver
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consumers.reports.partition import Partition, PartitionResult

FORKS = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Start the server unless it runs. It ends with this process and the lanes.

    The server imports what a lane needs, once for all lanes, while this process continues. A fork of this process itself would
    copy its sockets and its threads.
    """
    FORKS.set_forkserver_preload(["consumers.reports.partition"])
    forkserver.ensure_running()


def prepare() -> None:
    """Prepare the process: it ignores the signals of a terminal, ends with its parents, and yields to all other work."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parents, daemon=True).start()
    run_when_idle()


def count(partition: "Partition") -> "PartitionResult":
    """`count_partition`, in a lane."""
    from consumers.reports.partition import count_partition  # it imports NumPy: see above

    return count_partition(partition)


def run_when_idle() -> str | None:
    """Run this thread only on idle processors; sched(7), SCHED_IDLE. Returns the reason if the system refuses.

    A nice value does not suffice: a nice thread still finishes its time slice of some milliseconds.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, PermissionError) as error:  # not Linux, or a container that forbids it
        return str(error)
    return None


def _end_with_parents() -> None:
    """End when the consumer or the server ends.

    A killed consumer closes no queue, so the process would wait for ever. Without its server the consumer takes it for dead.
    """
    consumer = multiprocessing.parent_process()
    assert consumer is not None
    watched = [consumer.sentinel]
    with suppress(AttributeError, OSError):  # not Linux, or an old one
        watched.append(os.pidfd_open(os.getppid()))
    multiprocessing.connection.wait(watched)
    os._exit(1)
