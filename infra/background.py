"""Background work: threads and processes that yield to all other work of the machine."""

import os


def run_when_idle() -> str | None:
    """Run this thread only on idle processors; sched(7), SCHED_IDLE. Returns the reason if the system refuses.

    A nice value does not suffice: a nice thread still finishes its time slice of some milliseconds.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, PermissionError) as error:  # not Linux, or a container that forbids it
        return str(error)
    return None
