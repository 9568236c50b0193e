"""Redis: a cache, so a private instance writes nothing to disk and its memory is bounded."""

import shutil
import signal
from collections.abc import Mapping
from typing import ClassVar

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from dev.errors import NotReadyError
from dev.process import PLAIN_ENVIRONMENT
from dev.service import PROBE_SECONDS, Command, Place, Ports, Service


class RedisService(Service):
    """One process; all of its configuration is its command line."""

    name = "redis"
    title = "Redis"
    variable = "POSTHASTE_REDIS_URL"
    container_ports: ClassVar[Ports] = {"redis": 6379}
    candidates = range(26000, 27000)
    timeout_seconds = 30.0
    package = "redis-server"
    user = "redis"
    ports = ("redis",)
    end = (signal.SIGTERM, 10.0)

    def variables(self, ports: Ports, password: str) -> dict[str, str]:
        return {self.variable: f"redis://127.0.0.1:{ports['redis']}/0"}

    def check(self, variables: Mapping[str, str]) -> None:
        limits = {"socket_timeout": PROBE_SECONDS, "socket_connect_timeout": PROBE_SECONDS}
        try:
            with Redis.from_url(variables[self.variable], retry=Retry(NoBackoff(), 0), **limits) as client:
                client.ping()
        except RedisError as error:  # while it loads its data, it answers so
            raise NotReadyError(str(error)) from error

    def installed(self) -> bool:
        return shutil.which("redis-server", path=PLAIN_ENVIRONMENT["PATH"]) is not None

    def version(self) -> str:
        return "Redis"

    def prepare(self, place: Place) -> None:
        """It keeps nothing."""

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


REDIS = RedisService()
