"""Loopback ports: chosen once, remembered, and replaced when another process took one meanwhile."""

import fcntl
import random
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO

from dev.errors import ServiceError

LOOPBACK = "127.0.0.1"
_RESERVATIONS = Path(__file__).parents[1] / ".local/ports"
_RESERVED_SECONDS = 120.0  # a server binds its port within this time
_reserved: dict[int, float] = {}  # ports of this process, and the monotonic time of their choice


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


def free_port() -> int:
    """A free port below the ephemeral range of Linux: no outgoing connection takes it before its server binds.

    It is reserved for two minutes: several test processes choose ports at the same time. A lock of one byte of a file is the
    reservation, so it ends with its process.
    """
    _release_old()
    while True:
        port = random.SystemRandom().randrange(28_000, 32_768)
        if port not in _reserved and _reserve(port):
            return port


def _reserve(port: int) -> bool:
    try:
        fcntl.lockf(_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _reserved[port] = time.monotonic()
    return is_free(port)


def _release_old() -> None:
    expired = [port for port, at in _reserved.items() if time.monotonic() - at > _RESERVED_SECONDS]
    for port in expired:
        del _reserved[port]
        fcntl.lockf(_file(), fcntl.LOCK_UN, 1, port)


@cache
def _file() -> IO[bytes]:
    _RESERVATIONS.parent.mkdir(exist_ok=True)
    return _RESERVATIONS.open("ab")
