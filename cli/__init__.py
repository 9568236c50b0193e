"""The `posthaste` command."""

import atexit
import gc


def end_quickly() -> None:
    """Exempt all objects from the garbage collection at the end of the process: it would read those of every module."""
    atexit.register(gc.freeze)
