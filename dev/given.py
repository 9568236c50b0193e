"""A service that the environment names: used as it is, once somebody answers there."""

import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from dev.catalogue import RABBITMQ, Service
from dev.envfile import Found
from dev.errors import ServiceError

SECONDS = 3.0
USUAL_PORTS = {"amqp": 5672, "amqps": 5671, "redis": 6379, "rediss": 6379, "postgresql": 5432, "postgres": 5432}


def find(service: Service, environ: Mapping[str, str]) -> Found:
    """Check that the URL is answered, and pass it on unchanged."""
    variables = {service.variable: environ[service.variable]}
    if service is RABBITMQ and environ.get("POSTHASTE_MANAGEMENT_URL"):
        variables["POSTHASTE_MANAGEMENT_URL"] = environ["POSTHASTE_MANAGEMENT_URL"]
    _check_answered(service.variable, environ[service.variable])
    return Found(service.title, f"given by {service.variable}", variables)


def address(url: str) -> tuple[str, int] | None:
    """Host and port of a service's URL; None where it names no host (a Unix socket)."""
    parts = urlsplit(url)
    if not parts.hostname:
        return None
    try:
        port = parts.port or USUAL_PORTS.get(parts.scheme.partition("+")[0])
    except ValueError:  # its text repeats a part of the URL, which may be one of a password
        raise ValueError("its port is not a number") from None
    if port is None:
        raise ValueError("it names no port")
    return parts.hostname, port


def _check_answered(variable: str, url: str) -> None:
    try:
        target = address(url)
    except ValueError as error:
        raise ServiceError(f"{variable} is not a URL of a service: {error}") from error
    if target is None:
        return
    try:
        socket.create_connection(target, timeout=SECONDS).close()
    except OSError as error:
        raise ServiceError(
            f"{variable} points to {target[0]}:{target[1]}, where nobody answers ({error.strerror or error}): "
            "start that service, or unset the variable to have one started here"
        ) from error
