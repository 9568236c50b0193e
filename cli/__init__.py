"""The `posthaste` command."""

import atexit
import gc


def end_quickly() -> None:
    """Exempt all objects from the collection at the end of the process: it would read those of every module, for 0.16 s."""
    atexit.register(gc.freeze)
