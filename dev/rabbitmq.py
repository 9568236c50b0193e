"""RabbitMQ as a private instance: a node, an epmd and a cookie of its own, so that it never meets another RabbitMQ.

The server is run from the package's own folder: the wrapper in /usr/sbin insists on root or the package's user. Every
place that it would read below /etc/rabbitmq is named here instead.
"""

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from dev.catalogue import RABBITMQ
from dev.process import PLAIN_ENVIRONMENT, write_as
from dev.recipes import Command, Place

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

CONFIGURATION = """\
listeners.tcp.local = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
log.console = true
log.console.level = info
# the write-ahead log of quorum queues is kept in memory too: 64 MiB instead of 512
raft.wal_max_size_bytes = 67108864
"""


class PrivateRabbitMQ:
    """Two processes: epmd, which Erlang nodes find each other by, and the broker."""

    service = RABBITMQ
    package = "rabbitmq-server"
    user = "rabbitmq"
    ports = ("amqp", "management", "distribution", "epmd")
    end = (signal.SIGTERM, 30.0)

    def installed(self) -> bool:
        return SERVER.exists() and shutil.which("epmd", path=PLAIN_ENVIRONMENT["PATH"]) is not None

    def version(self) -> str:
        # the script lies in …/rabbitmq_server-3.10.8/sbin/
        return f"RabbitMQ {SERVER.resolve().parent.parent.name.rpartition('-')[2]}"

    def prepare(self, place: Place) -> None:
        files = {
            "rabbitmq.conf": CONFIGURATION.format(**place.ports),
            # The shovel is what moves messages in the management UI.
            "enabled_plugins": "[rabbitmq_management,rabbitmq_shovel,rabbitmq_shovel_management].\n",
            "rabbitmq-env.conf": "# left empty: what is to be set is set in the environment\n",
        }
        for name, text in files.items():
            write_as(place.user, place.folder / name, text)

    def commands(self, place: Place) -> Mapping[str, Command]:
        epmd = ["epmd", "-address", "127.0.0.1", "-port", str(place.ports["epmd"])]
        return {"epmd": Command(epmd), "server": Command([str(SERVER)], _environment(place))}


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
