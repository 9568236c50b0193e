"""Is a service really ready? Each probe speaks a few bytes of the service's own protocol.

An open port says little: Docker's proxy accepts before there is anybody behind it, and Postgres answers "starting up".
Every probe returns when the service answers as it should and raises NotReadyError, saying what it did instead.
"""

import base64
import http.client
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from dev.errors import NotReadyError

SECONDS = 2.0


@contextmanager
def _conversation(port: int) -> Iterator[socket.socket]:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            yield connection
    except OSError as error:
        raise NotReadyError(f"port {port}: {error.strerror or error}") from error


def redis_answers(port: int) -> None:
    """PING → PONG; while it loads or is busy, Redis answers with an error instead."""
    with _conversation(port) as connection:
        connection.sendall(b"PING\r\n")
        answer = connection.recv(200)
    if not answer.startswith(b"+PONG"):
        raise NotReadyError(f"PING was answered with {answer!r}")


def postgres_answers(port: int, user: str, database: str) -> None:
    """A startup message → a request to authenticate ('R'); until then Postgres answers with an error ('E')."""
    parameters = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
    with _conversation(port) as connection:
        connection.sendall(struct.pack("!ii", 8 + len(parameters), 196608) + parameters)
        answer = connection.recv(500)
    if not answer.startswith(b"R"):
        said = [field[1:].decode(errors="replace") for field in answer[5:].split(b"\0") if field.startswith(b"M")]
        raise NotReadyError(said[0] if said else f"the startup message was answered with {answer!r}")


def amqp_answers(port: int) -> None:
    """The protocol header → Connection.Start: a method frame (1) on channel 0, class 10, method 10."""
    with _conversation(port) as connection:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        answer = connection.recv(11)
    if answer[:3] != b"\x01\x00\x00" or answer[7:11] != b"\x00\x0a\x00\x0a":
        raise NotReadyError(f"the AMQP header was answered with {answer!r}")


def management_answers(port: int, user: str, password: str) -> None:
    """GET /api/overview as the user → 200: the plugin is up and the user exists."""
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/api/overview", headers={"Authorization": f"Basic {credentials}"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise NotReadyError(f"management on port {port}: {error}") from error
    finally:
        connection.close()
    if status != 200:
        raise NotReadyError(f"management on port {port} answered {status}")
