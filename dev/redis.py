"""Redis as a private instance: a cache, so nothing is written to disk and its memory is bounded."""

import shutil
import signal
from collections.abc import Mapping

from dev.catalogue import REDIS
from dev.process import PLAIN_ENVIRONMENT
from dev.recipes import Command, Place


class PrivateRedis:
    """One process; all of its configuration is its command line."""

    service = REDIS
    package = "redis-server"
    user = "redis"
    ports = ("redis",)
    end = (signal.SIGTERM, 10.0)

    def installed(self) -> bool:
        return shutil.which("redis-server", path=PLAIN_ENVIRONMENT["PATH"]) is not None

    def version(self) -> str:
        return "Redis"

    def prepare(self, place: Place) -> None:
        """Nothing is kept."""

    def commands(self, place: Place) -> Mapping[str, Command]:
        options = {
            "--bind": "127.0.0.1",
            "--port": str(place.ports["redis"]),
            "--save": "",
            "--appendonly": "no",
            "--maxmemory": "256mb",
            "--maxmemory-policy": "allkeys-lru",
            "--dir": str(place.folder),
        }
        return {"server": Command(["redis-server", *(word for option in options.items() for word in option)])}
