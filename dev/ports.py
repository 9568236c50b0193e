"""Loopback ports: chosen once, remembered, and replaced when another process took one meanwhile."""

import socket
from collections.abc import Callable, Collection, Iterator, Mapping

from dev.errors import ServiceError

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether no process listens there (connections of an earlier owner that are still closing do not count)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def settle(
    names: Collection[str],
    remembered: Mapping[str, int],
    candidates: Iterator[int],
    free: Callable[[int], bool] = is_free,
) -> dict[str, int]:
    """A port for each name: the remembered one while it is free, else the next free candidate."""
    settled: dict[str, int] = {}
    kept = {port for name, port in remembered.items() if name in names}
    for name in names:
        port = remembered.get(name)
        if port is None or not free(port):
            port = next((c for c in candidates if c not in kept and free(c)), None)
        if port is None:
            raise ServiceError(f"no port is free for {name}")
        settled[name] = port
    return settled
