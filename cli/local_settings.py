"""Settings that `posthaste up` completes for one folder: the sandbox as the provider, a callback secret, a local API key."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.processes import CannotStart
from cli.session import open_session
from infra.errors import Transient
from infra.keys import Scope, matches, new_key, prefix_of
from infra.postgres.api_keys import ApiKeyStore
from infra.postgres.errors import Unexpected
from infra.webhooks.signing import new_secret
from service.settings import PREFIX, SANDBOX_FILE, Settings

LOOPBACK = ["127.0.0.0/8", "::1/128"]
LOCAL_CLIENT = "local"
CALL_SECONDS = 5.0
FOLDER = Path(SANDBOX_FILE).parent
KEY_FILE = FOLDER / "api-key"


@contextmanager
def local_settings(settings: Settings, sandbox_port: int | None) -> Iterator[None]:
    """Complete missing settings here, in our processes, and in the file that commands in other terminals read.

    With a sandbox: it is the provider, this folder's secret signs callbacks, and callbacks may go to loopback. If requests
    need a key, this folder's key is the key of commands.
    """
    defaults = {} if sandbox_port is None else _sandbox_settings(settings, sandbox_port)
    if FOLDER.is_dir() and settings.api_key is None and settings.auth != "off" and (key := local_key()):
        defaults["API_KEY"] = key
    os.environ.update({PREFIX + name: value for name, value in defaults.items()})
    file = Path(SANDBOX_FILE)
    if FOLDER.is_dir() and defaults:
        lines = "".join(f"{PREFIX}{name}={value}\n" for name, value in defaults.items())
        _write(file, f"# While `posthaste up` runs.\n{lines}")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _sandbox_settings(settings: Settings, port: int) -> dict[str, str]:
    defaults = {}
    if not settings.providers:
        defaults["PROVIDERS"] = json.dumps({"sandbox": {"kind": "http", "url": f"http://127.0.0.1:{port}/message"}})
    if not settings.callback_secrets:
        defaults["CALLBACK_SECRETS"] = json.dumps([_folder_secret()])
    if "callback_allow" not in settings.model_fields_set:
        defaults["CALLBACK_ALLOW"] = json.dumps(LOOPBACK)
    return defaults


def local_key() -> str | None:
    """This folder's usable key, made when requests need a key.

    None: they need none, or the ledger cannot be read. The processes report the latter themselves, and wait.
    """
    with open_session() as (_, pool):
        try:
            return asyncio.run(_usable_key(ApiKeyStore(pool)))
        except (Transient, Unexpected):
            return None


async def _usable_key(store: ApiKeyStore) -> str | None:
    if not await store.any(CALL_SECONDS):
        return None
    stored = KEY_FILE.read_text().strip() if KEY_FILE.exists() else ""
    prefix = prefix_of(stored)
    record = (await store.find([prefix], CALL_SECONDS))[0] if prefix else None
    if record is not None and record.usable and matches(stored, record.hash):
        return stored
    new, scopes = new_key(), [scope for scope in Scope if scope is not Scope.ADMIN]
    await store.create_client(LOCAL_CLIENT, CALL_SECONDS)
    await store.create_key(LOCAL_CLIENT, new, scopes, None, CALL_SECONDS)
    _write(KEY_FILE, new.key + "\n")
    return new.key


def _folder_secret() -> str:
    """This folder's secret, made once: callbacks that wait from one run to the next keep their signature."""
    file = FOLDER / "callback-secret"
    if file.exists():
        return file.read_text().strip()
    secret = new_secret()
    if FOLDER.is_dir():
        _write(file, secret + "\n")
    return secret


def _write(file: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    file.touch(mode=0o600)
    file.write_text(text)


@contextmanager
def recorded_run() -> Iterator[None]:
    """Record this process in the folder while it runs, so that `make stop` ends it. `started`: ticks since boot.

    Raises:
        CannotStart: another run uses this folder's settings.
    """
    if run := forget_killed_runs():
        raise CannotStart(f"process {run} runs in this folder already, and its settings are here; end it with `make stop`")
    file, started_at = FOLDER / f"up-{os.getpid()}.json", started(os.getpid())
    if FOLDER.is_dir() and started_at is not None:
        file.write_text(json.dumps({"pid": os.getpid(), "started": started_at}))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def forget_killed_runs() -> int | None:
    """Delete what killed runs left behind: their records, and their settings. Returns the pid of a run that lives."""
    for record in FOLDER.glob("up-*.json"):
        run = json.loads(record.read_text())
        if started(run["pid"]) == run["started"]:
            return int(run["pid"])
        record.unlink()
    Path(SANDBOX_FILE).unlink(missing_ok=True)
    return None


def started(pid: int) -> int | None:
    """The start of a process in ticks since boot (proc(5), field 22); None: no such process, or no /proc."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return None
