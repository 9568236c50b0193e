"""The exposition of metrics: on the API's port, or on a port of a worker or relay process.

Several API processes on one port share a directory of memory-mapped files, one set a process: prometheus_client's
multiprocess mode. Every process answers with the sum of all. A dead process' counters stay, its gauges vanish.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class PortTaken(Exception):
    """The port of the metrics cannot be used; the message names the setting."""


def render(accept: str) -> tuple[bytes, str]:
    """The metrics of this process, or of all that share its port, and their media type. `accept`: OpenMetrics or text."""
    encode, media_type = choose_encoder(accept)
    return encode(_registry()), media_type


def _registry() -> CollectorRegistry:
    if FOLDER_VARIABLE not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


@contextmanager
def serve(host: str, port: int | None) -> Iterator[None]:
    """Answer every request at this port with the metrics, in a thread of its own. None: no port.

    Raises:
        PortTaken: the port or the address is not available.
    """
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, host)
    except OSError as error:
        remedy = "each process needs its own POSTHASTE_METRICS_PORT"
        raise PortTaken(f"cannot serve metrics at {host}:{port}: {error.strerror or error}; {remedy}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def shared_folder() -> Iterator[None]:
    """The context of processes that share one port. A parent enters it before it starts them; they inherit the variable.

    A child must import this package after its start: `fork` without `exec` would keep the metrics of one process.
    """
    with tempfile.TemporaryDirectory(prefix="posthaste-metrics-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER_VARIABLE]


def forget_process(pid: int) -> None:
    """Drop the gauges of a child that has ended. Its parent calls this; the counters stay, as they must not decrease."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
