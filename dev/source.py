"""Where a service comes from: the environment, else a Docker engine, else the distribution's packages."""

import socket
from collections.abc import Callable, Mapping
from enum import StrEnum
from urllib.parse import urlsplit

from dev.errors import ServiceError
from dev.service import Service

CONNECT_SECONDS = 3.0
STANDARD_PORTS = {"amqp": 5672, "amqps": 5671, "redis": 6379, "rediss": 6379, "postgresql": 5432, "postgres": 5432}


class Source(StrEnum):
    """The three sources of a service."""

    ENVIRONMENT = "environment"
    DOCKER = "docker"
    PACKAGES = "packages"


def resolve(
    *,
    explicit: str | None,
    own: str | None,
    using: Source | None,
    remembered: Source | None,
    docker_trouble: Callable[[], str | None],
) -> Source:
    """Decide for one service.

    `explicit` is the URL in the environment. It does not count where it equals `own`, that of an instance started here:
    services.env was loaded into the shell. `using` is the user's choice. `remembered` is the source that this root used
    before, so that an engine started later does not swap a database for an empty one. `docker_trouble` says why Docker
    cannot be used, or None; it takes a while, so it is called only where it matters.
    """
    if explicit and explicit != own:
        return Source.ENVIRONMENT
    if Source.PACKAGES in (using, using or remembered):
        return Source.PACKAGES
    trouble = docker_trouble()
    if trouble is None:
        return Source.DOCKER
    if using is Source.DOCKER:
        raise ServiceError(f"Docker was asked for, but {trouble}")
    if remembered is Source.DOCKER:
        raise ServiceError(
            f"its data is in a Docker volume, but {trouble}: start Docker, or begin anew with `make services USING=packages`"
        )
    return Source.PACKAGES


def explicit_variables(service: Service, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a service that the environment names, unchanged, once a server answers there."""
    names = [service.variable, *(["POSTHASTE_MANAGEMENT_URL"] if service.name == "rabbitmq" else [])]
    variables = {name: environ[name] for name in names if environ.get(name)}
    _check_answered(service.variable, variables[service.variable])
    return variables


def address(url: str) -> tuple[str, int] | None:
    """Host and port of a service's URL; None where it names no host (a Unix socket)."""
    parts = urlsplit(url)
    if not parts.hostname:
        return None
    try:
        port = parts.port or STANDARD_PORTS.get(parts.scheme.partition("+")[0])
    except ValueError:  # its text repeats a part of the URL, which may be one of a password
        raise ValueError("its port is not a number") from None
    if port is None:
        raise ValueError("it names no port")
    return parts.hostname, port


def _check_answered(variable: str, url: str) -> None:
    try:
        target = address(url)
        if target is not None:
            socket.create_connection(target, timeout=CONNECT_SECONDS).close()
    except ValueError as error:
        raise ServiceError(f"{variable} is not a URL of a service: {error}") from error
    except OSError as error:
        host, port = target or ("", 0)
        raise ServiceError(
            f"{variable} points to {host}:{port}, where no server answers ({error.strerror or error}): "
            "start that service, or unset the variable to have one started here"
        ) from error
