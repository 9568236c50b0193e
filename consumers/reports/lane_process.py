"""The process of a lane. It imports little: each lane has it in memory."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

from infra.background import run_when_idle


def prepare() -> None:
    """Prepare the process: it ignores the signals of a terminal, ends with its parent, and yields to all other work."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_when_idle()


def _end_with_parent() -> None:
    """End when the consumer ends. A killed consumer closes no queue, so the process would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
