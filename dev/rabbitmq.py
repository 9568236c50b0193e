"""RabbitMQ: a private instance has a node, an epmd and a cookie of its own, so that it never meets another RabbitMQ.

The server is run from the package's own folder: the wrapper in /usr/sbin insists on root or the package's user. Every
path that it would read below /etc/rabbitmq is set here instead.
"""

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import aiohttp

from dev.errors import NotReadyError
from dev.process import PLAIN_ENVIRONMENT, write_as
from dev.service import PROBE_SECONDS, Command, Place, Ports, Service
from infra.rabbitmq.connection import BROKER_ERRORS, connect

logging.getLogger("aiormq").addHandler(logging.NullHandler())  # a refused connection is no news while it starts
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

DISCARD = "discard"  # a file in the instance's folder: its data is made anew at the next start, for the reason in it
NODE_DATA = ("mnesia", "feature_flags")

CONFIGURATION = """\
listeners.tcp.local = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
log.console = true
log.console.level = info
# the write-ahead log of quorum queues is kept in memory too: 64 MiB instead of 512
raft.wal_max_size_bytes = 67108864
"""


class RabbitMQService(Service):
    """Two processes: epmd, which Erlang nodes find each other by, and the broker."""

    name = "rabbitmq"
    title = "RabbitMQ"
    variable = "POSTHASTE_AMQP_URL"
    container_ports: ClassVar[Ports] = {"amqp": 5672, "management": 15672}
    candidates = range(21500, 24500)
    timeout_seconds = 150
    package = "rabbitmq-server"
    user = "rabbitmq"
    ports = ("amqp", "management", "distribution", "epmd")
    end = (signal.SIGTERM, 30.0)
    movable = False  # it opens files by absolute names, and finds no quorum queue under another

    def variables(self, ports: Ports, password: str) -> dict[str, str]:
        # guest may connect over loopback only, where everything here listens
        return {
            self.variable: f"amqp://guest:guest@127.0.0.1:{ports['amqp']}/",
            "POSTHASTE_MANAGEMENT_URL": f"http://guest:guest@127.0.0.1:{ports['management']}",
        }

    def check(self, variables: Mapping[str, str]) -> None:
        with ThreadPoolExecutor(1) as thread:  # tests call from inside an event loop
            thread.submit(asyncio.run, _check(variables[self.variable], variables["POSTHASTE_MANAGEMENT_URL"])).result()

    def installed(self) -> bool:
        return SERVER.exists() and shutil.which("epmd", path=PLAIN_ENVIRONMENT["PATH"]) is not None

    def version(self) -> str:
        # the script lies in …/rabbitmq_server-3.10.8/sbin/
        return f"RabbitMQ {SERVER.resolve().parent.parent.name.rpartition('-')[2]}"

    def prepare(self, place: Place) -> str | None:
        note = _delete_unusable(place)
        if not (place.folder / "mnesia").exists():
            self.discard(place, "its first boot was interrupted")
        files = {
            "rabbitmq.conf": CONFIGURATION.format(**place.ports),
            # The shovel is what moves messages in the management UI.
            "enabled_plugins": "[rabbitmq_management,rabbitmq_shovel,rabbitmq_shovel_management].\n",
            "rabbitmq-env.conf": "# left empty: what is to be set is set in the environment\n",
        }
        for name, text in files.items():
            write_as(place.user, place.folder / name, text)
        return note

    def discard(self, place: Place, reason: str) -> None:
        write_as(place.user, place.folder / DISCARD, reason)

    def finish(self, place: Place) -> None:
        (place.folder / DISCARD).unlink(missing_ok=True)

    def commands(self, place: Place) -> Mapping[str, Command]:
        epmd = ["epmd", "-address", "127.0.0.1", "-port", str(place.ports["epmd"])]
        return {"epmd": Command(epmd), "server": Command([str(SERVER)], _environment(place))}


def _delete_unusable(place: Place) -> str | None:
    """Delete the data of a node that was killed in its first boot, or whose folder was moved. Returns the reason.

    After a killed first boot, tables exist in part: the next boot ends with `schema_integrity_check_failed`, or waits for the
    others for ever. No job is lost, because Postgres stores every job and the relay publishes again.
    """
    mark = place.folder / DISCARD
    if not (mark.exists() and (place.folder / "mnesia").exists()):
        return None
    for path in (place.folder / name for name in NODE_DATA):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return f"its data is made anew: {mark.read_text()} (Postgres stores every job)"


async def _check(amqp: str, management: str) -> None:
    await check_management(management)
    await check_amqp(amqp)


async def check_amqp(url: str) -> None:
    """Open a connection."""
    try:
        await (await connect(url, "check")).close()
    except BROKER_ERRORS as error:
        raise NotReadyError(f"AMQP: {str(error) or type(error).__name__}") from error


async def check_management(url: str) -> None:
    """Call the management API as the URL's user: the plugin runs and the user exists."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PROBE_SECONDS)) as session,
            session.get(f"{url}/api/overview") as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, OSError) as error:
        raise NotReadyError(f"management: {str(error) or type(error).__name__}") from error
    if status != 200:
        raise NotReadyError(f"management answered {status}")


def control(place: Place, *arguments: str) -> Command:
    """`rabbitmqctl` for this node and no other."""
    cookie = (place.folder / ".erlang.cookie").read_text()
    environment = _environment(place)
    node = ["-n", environment["RABBITMQ_NODENAME"], "--erlang-cookie", cookie]
    return Command([str(SERVER.with_name("rabbitmqctl")), *node, *arguments], environment)


def _environment(place: Place) -> dict[str, str]:
    schedulers = min(4, os.cpu_count() or 1)
    folder = place.folder
    return {
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(place.ports["epmd"]),
        "RABBITMQ_NODENAME": f"posthaste-{place.key}@localhost",
        "RABBITMQ_DIST_PORT": str(place.ports["distribution"]),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
        "RABBITMQ_PLUGINS_EXPAND_DIR": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_MNESIA_DIR": str(folder / "mnesia/node"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_LOGS": "-",
        # makes the script exec the Erlang VM, so that the pid recorded is that of the broker itself
        "RUNNING_UNDER_SYSTEMD": "true",
        # an idle broker should cost nothing: no busy waiting
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S {schedulers}:{schedulers} +sbwt none +sbwtdcpu none +sbwtdio none "
        "-kernel inet_dist_use_interface {127,0,0,1}",
    }


RABBITMQ = RabbitMQService()
