"""The exposition of metrics: on the API's port, or on a port of a worker or relay process.

Several API processes on one port share a folder of memory-mapped files, one set a process: prometheus_client's multiprocess
mode. Every process answers with the sum of all. A dead process' counters stay, as they must not decrease; its gauges vanish.
The parent makes the folder, names it in SHARED_FOLDER_VARIABLE, and deletes it (`cli/processes.py`).
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from infra.monitoring import SHARED_FOLDER_VARIABLE


class PortTaken(Exception):
    """The port of the metrics cannot be used; the message names the setting."""


def render(accept: str) -> tuple[bytes, str]:
    """The metrics of this process, or of all that share its port, and their media type. `accept`: OpenMetrics or text."""
    encode, media_type = _encoder(accept)
    return encode(_registry()), media_type


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """The encoder and the media type that `accept` names; the default one if its version is malformed."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        return choose_encoder("")


def _registry() -> CollectorRegistry:
    folder = os.environ.get(SHARED_FOLDER_VARIABLE)
    if folder is None:
        return REGISTRY
    _drop_gauges_of_dead_processes(Path(folder))
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _drop_gauges_of_dead_processes(folder: Path) -> None:
    files = {file: re.fullmatch(r"gauge_live\w+_(\d+)\.db", file.name) for file in folder.iterdir()}
    for file, found in files.items():
        if found and not _is_alive(int(found[1])):
            file.unlink(missing_ok=True)  # another process of the folder may have removed it


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user has the id
        return True
    return True


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
