"""PostgreSQL as a private instance: a cluster of our own, on loopback only, with a role that may create databases."""

import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dev.catalogue import POSTGRES
from dev.errors import ServiceError
from dev.process import all_pids, read_stat, run, write_as
from dev.recipes import Command, Place

VERSIONS = Path("/usr/lib/postgresql")


class PrivatePostgres:
    """Made by initdb, which Debian keeps in a folder per major version."""

    service = POSTGRES
    package = "postgresql"
    user = "postgres"
    ports = ("postgres",)
    end = (signal.SIGINT, 30.0)  # fast shutdown: clients are cut off, what they committed is safe

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
    """Remove postmaster.pid where its pid now belongs to a stranger, or to a zombie that nobody reaps (containers).

    Postgres itself copes with a pid that is gone, but takes any other process of its user for a running server.
    The file also guards against backends that outlived their server; so it stays while anybody works in the folder.
    """
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    stat = read_stat(int(lock.read_text().split("\n", 1)[0]))
    if stat is not None and not _somebody_works_in(data):
        lock.unlink()


def _somebody_works_in(data: Path) -> bool:
    for pid in all_pids():
        # gone meanwhile, a zombie, or another user's and so not of this cluster
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if Path(f"/proc/{pid}/cwd").readlink() == data.resolve():
                return True
    return False
