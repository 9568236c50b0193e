"""The process of a lane. It imports little: each lane has it in memory, and each start takes its time."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading


def prepare() -> None:
    """Prepare the process: it ignores the signals of a terminal, ends with its parent, and yields to all other work."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy is imported later; its threads are for algebra, and slow to start
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_when_idle()


def run_when_idle() -> str | None:
    """Run this thread only on idle processors; sched(7), SCHED_IDLE. Returns the reason if the system refuses.

    A nice value does not suffice: a nice thread still finishes its time slice of some milliseconds.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, PermissionError) as error:  # not Linux, or a container that forbids it
        return str(error)
    return None


def _end_with_parent() -> None:
    """End when the consumer ends. A killed consumer closes no queue, so the process would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
