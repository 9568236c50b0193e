"""A private Postgres or Redis, so that one test can change its roles, users and certificates."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev import Instance
from dev.containers import Project
from dev.home import Home
from dev.process import write_as


@dataclass(frozen=True)
class OwnServer:
    """The administrator's URL. `put(name, text)` writes a file that only the server can read, and returns its path."""

    url: str
    put: Callable[[str, str], str]


@contextmanager
def own_server(name: str, root: Path) -> Iterator[OwnServer]:
    """Start `postgres` or `redis`, from packages, else in a container; delete it afterwards."""
    instance = Instance.of(name, root)
    with _private(instance) if instance.installed() else _in_a_container(instance) as started:
        yield started


@contextmanager
def _private(instance: Instance) -> Iterator[OwnServer]:
    def put(name: str, text: str) -> str:
        place = instance.place()
        write_as(place.user, place.folder / name, text)
        return str(place.folder / name)

    try:
        instance.start()
        yield OwnServer(instance.variables[instance.service.variable], put)
    finally:
        instance.kill()  # its data is worthless
        instance.stop()
        instance.home.delete()


@contextmanager
def _in_a_container(instance: Instance) -> Iterator[OwnServer]:
    service, home = instance.service, Home(instance.home.root)
    home.create()
    project = Project(home, lambda _service, _line: None)

    def put(name: str, text: str) -> str:
        path, user = f"/tmp/{name}", service.user  # the package's user and the image's have one name
        write = f'umask 077 && printf %s "$0" >{path} && chown {user} {path}'
        project.execute(service, "sh", "-c", write, text)
        return path

    try:
        variables = project.start([service], threading.Event())
        yield OwnServer(variables[service][service.variable], put)
    finally:
        project.delete()
        home.delete()


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1; `file` is the path for clients that trust it."""

    file: Path
    certificate: str
    key: str


def make_certificate(folder: Path) -> Certificate:
    """Create a certificate with openssl."""
    certificate, key = folder / "server.crt", folder / "server.key"
    options = [*("-newkey", "rsa:2048", "-nodes", "-days", "2"), *("-keyout", str(key)), *("-out", str(certificate))]
    subprocess.run(
        ["openssl", "req", "-x509", *options, "-subj", "/CN=posthaste-test", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    return Certificate(certificate, certificate.read_text(), key.read_text())
