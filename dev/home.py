"""The data folder of one root, and the record of each of its services.

A normal user has all of it under `<root>/data`. Root cannot: Postgres refuses to run as root, and its own user cannot
reach a checkout under a closed home folder. So root's data lies in a folder of its own, which `<root>/data` points to.

`home.json` in the data folder names the root and its key. A moved root keeps both data and key; a copied root gets its own.
"""

import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dev.errors import ServiceError
from dev.process import Process

APART = Path("/var/lib/posthaste")
IDENTITY = "home.json"
NAMES = ("postgres", "rabbitmq", "redis")
MAKING_PASSWORD = threading.Lock()  # services start in parallel


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only."""
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor, which no Path can open
        file.write(text)
    Path(fresh).replace(path)


@dataclass(frozen=True)
class Record:
    """One service: its source, its ports, its processes by role."""

    source: str
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """What a data folder says about itself: the root that it belongs to, and the key of that root's services."""

    root: str
    key: str

    @classmethod
    def of(cls, data: Path) -> "Identity | None":
        """The identity of a data folder; None if it has none. Folders of earlier versions have only their services' records."""
        for name in (IDENTITY, *(f"{name}.json" for name in NAMES)):
            try:
                content = json.loads((data / name).read_text())
            except FileNotFoundError:
                continue
            return cls(content["root"], content.get("key") or _key(content["root"]))
        return None

    def is_in_use(self, data: Path) -> bool:
        """Whether the root that it names still exists and has this data, or an original of it."""
        theirs = Path(self.root) / "data"
        try:
            return theirs.resolve() == data.resolve() or Identity.of(theirs) == self
        except OSError:  # an unreadable root may be in use
            return True


def _key(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:10]


class Home:
    """The data of one root. `key` is unique to it, so that two checkouts never meet.

    `former` is the path that the root was moved from, until `create` records the new one.
    """

    def __init__(self, root: Path, *, apart: bool | None = None) -> None:
        self.root = root.resolve()
        self.apart = os.geteuid() == 0 if apart is None else apart
        self._identify()

    def _identify(self) -> None:
        """Find the data by its record. Without a record, or in a copy, it is new."""
        self.former: str | None = None
        recorded, data = None, self.root / "data"
        if not self.apart or data.is_symlink():
            data = data.readlink() if self.apart else data
            recorded = Identity.of(data)
        if recorded is None or (recorded.root != str(self.root) and recorded.is_in_use(data)):
            self.key = self._new_key()
        else:
            self.key = recorded.key
            self.former = recorded.root if recorded.root != str(self.root) else None
        self.data = APART / self.key if self.apart else self.root / "data"

    def _new_key(self) -> str:
        """The key of this path. If a root that was moved from here has taken it with it, a random one."""
        key = _key(str(self.root))
        owner = Identity.of(APART / key) if self.apart else None
        return key if owner is None or owner.root == str(self.root) else _key(str(self.root), secrets.token_hex(8))

    def create(self) -> None:
        """Make the folders, and the symlink where the data lies apart. Record the root in them."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._refuse_another_users()
        self.data.mkdir(parents=True, exist_ok=True, mode=0o711)  # other users may pass through to their folders
        if self.apart:
            self._point_to_data()
        for name in NAMES if self.former else ():
            if record := self.load(name):
                self.save(name, record)
        if Identity.of(self.data) != Identity(str(self.root), self.key) or not (self.data / IDENTITY).exists():
            write_private(self.data / IDENTITY, json.dumps({"root": str(self.root), "key": self.key}))
        self.former = None

    def _refuse_another_users(self) -> None:
        data = self.root / "data"
        if self.apart and data.is_dir() and not data.is_symlink():
            raise ServiceError(f"{data} belongs to a normal user: run this as {data.owner()}, or choose another --root")

    def _point_to_data(self) -> None:
        link = self.root / "data"
        if not link.is_symlink() or link.readlink() != self.data:  # a copied checkout points to the original's data
            link.unlink(missing_ok=True)
            link.symlink_to(self.data)

    def user_for(self, package_user: str) -> str | None:
        """The user that a service runs as: its package's where we are root, else ourselves (None)."""
        return package_user if self.apart else None

    def folder(self, name: str, user: str | None) -> Path:
        """A service's own data folder, made and handed to its user."""
        folder = self.data / name
        folder.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        return folder

    def log(self, name: str) -> Path:
        """The log of a service's current run; that of the previous run has `.1` appended."""
        return self.data / f"{name}.log"

    def has_password(self) -> bool:
        """Whether the database role has a password already."""
        return (self.data / "postgres.password").exists()

    def password(self) -> str:
        """The database role's password, generated once."""
        path = self.data / "postgres.password"
        with MAKING_PASSWORD:
            if not path.exists():
                write_private(path, secrets.token_hex(16))
        return path.read_text()

    def load(self, name: str) -> Record | None:
        """The record of a service; None where there is none, or where it was copied from another root."""
        try:
            content = json.loads((self.data / f"{name}.json").read_text())
        except FileNotFoundError:
            return None
        if content["root"] not in (str(self.root), self.former):
            return None
        processes = {role: Process(*identity) for role, identity in content["processes"].items()}
        return Record(content["source"], content["ports"], processes)

    def save(self, name: str, record: Record) -> None:
        """Keep the record of a service for the next command."""
        processes = {role: [process.pid, process.started] for role, process in record.processes.items()}
        content = {"root": str(self.root), "source": record.source, "ports": record.ports, "processes": processes}
        write_private(self.data / f"{name}.json", json.dumps(content, indent=1))

    def delete(self) -> None:
        """Delete all data, and the symlink to it."""
        if self.data.exists():
            shutil.rmtree(self.data)
        if (self.root / "data").is_symlink():
            (self.root / "data").unlink()
        (self.root / "services.env").unlink(missing_ok=True)

    @contextmanager
    def locked(self, report: Callable[[str], None]) -> Iterator[None]:
        """One command at a time works on a root; a second waits and reports it."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._refuse_another_users()
        with (self.root / "services.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report("another command is at work on these services: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._identify()  # the other command may have recorded a move
            yield
