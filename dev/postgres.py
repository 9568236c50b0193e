"""PostgreSQL: a private instance has a cluster of its own, on loopback only, with a role that may create databases."""

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import psutil
import psycopg2

from dev.errors import NotReadyError, ServiceError
from dev.process import run, write_as
from dev.service import PROBE_SECONDS, Command, Place, Ports, Service

VERSIONS = Path("/usr/lib/postgresql")


class PostgresService(Service):
    """One server of the newest installed major version; Debian keeps a folder for each."""

    name = "postgres"
    title = "PostgreSQL"
    variable = "POSTHASTE_DATABASE_URL"
    container_ports: ClassVar[Ports] = {"postgres": 5432}
    candidates = range(20000, 21500)
    package = "postgresql"
    user = "postgres"
    ports = ("postgres",)
    end = (signal.SIGINT, 30.0)  # fast shutdown: it disconnects clients; commits are safe

    def variables(self, ports: Ports, password: str) -> dict[str, str]:
        return {self.variable: f"postgresql://posthaste:{password}@127.0.0.1:{ports['postgres']}/posthaste"}

    def check(self, variables: Mapping[str, str]) -> None:
        try:
            psycopg2.connect(variables[self.variable], connect_timeout=PROBE_SECONDS).close()
        except psycopg2.OperationalError as error:
            raise NotReadyError(str(error).strip()) from error

    def installed(self) -> bool:
        return bool(_majors())

    def version(self) -> str:
        return f"PostgreSQL {max(_majors())}"

    def prepare(self, place: Place) -> None:
        data = place.folder / "data"
        if data.exists():
            remove_stale_lock(data)
        else:
            _make_cluster(place)

    def commands(self, place: Place) -> Mapping[str, Command]:
        data = place.folder / "data"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(place.ports["postgres"]),
            "unix_socket_directories": "",  # their paths have a length limit that a checkout easily exceeds
            "max_connections": "200",
            "cluster_name": f"posthaste-{place.key}",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return {"server": Command([str(_bin(_major_of(data)) / "postgres"), "-D", str(data), *options])}


def _majors() -> list[int]:
    found = [path.parent.parent.name for path in VERSIONS.glob("*/bin/postgres")]
    return [int(name) for name in found if name.isdigit() and (VERSIONS / name / "bin/initdb").exists()]


def _bin(major: int) -> Path:
    return VERSIONS / str(major) / "bin"


def _major_of(data: Path) -> int:
    major = int((data / "PG_VERSION").read_text())
    if major not in _majors():
        raise ServiceError(
            f"its data was made by version {major}, which is not installed: install postgresql-{major}, "
            "or delete all data (make clean)"
        )
    return major


def _make_cluster(place: Place) -> None:
    """A cluster appears under its name only once complete, so that an interrupted attempt is simply made again."""
    binaries = _bin(max(_majors()))
    unfinished = place.folder / "unfinished"
    secret = place.folder / "secret"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    write_as(place.user, secret, place.password)
    run(
        [
            *(str(binaries / "initdb"), "-D", str(unfinished), "--username=posthaste", f"--pwfile={secret}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"),
        ],
        folder=place.folder,
        user=place.user,
    )
    secret.unlink()
    single = [str(binaries / "postgres"), "--single", "-D", str(unfinished), "postgres"]
    run(single, folder=place.folder, user=place.user, script="CREATE DATABASE posthaste\n")
    unfinished.rename(place.folder / "data")


def remove_stale_lock(data: Path) -> None:
    """Remove postmaster.pid where its pid belongs to a stranger, or to a zombie that nobody reaps (containers).

    Postgres itself accepts a pid that is gone, but takes any other process of its user for a running server.
    The file also guards against backends that outlived their server; so it stays while a process works in the folder.
    """
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    folder = str(data.resolve())
    if psutil.pid_exists(int(lock.read_text().split("\n", 1)[0])) and not any(
        process.info["cwd"] == folder  # None for zombies and for processes of other users, which are not of this cluster
        for process in psutil.process_iter(["cwd"])
    ):
        lock.unlink()


POSTGRES = PostgresService()
