"""The command: python3 -m dev up|stop|status|clean [--root .local] [--using docker|packages]."""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from dev import docker
from dev.bringup import Bringup
from dev.catalogue import SERVICES, Service
from dev.errors import NotReadyError, ServiceError
from dev.home import Home
from dev.resolution import Source

PRINTING = threading.Lock()


def say(service: Service, line: str) -> None:
    """One line about one service; lines of services starting in parallel do not mix."""
    with PRINTING:
        print(f"{service.name:<9} {line}", flush=True)


def up(bringup: Bringup, using: Source | None) -> int:
    """Bring all three up, or leave them as they are where they already run."""
    print(f"services  all ready; where they are: {bringup.run(using)}")
    return 0


def stop(bringup: Bringup, _using: Source | None) -> int:
    """End what was started for this root, and nothing else."""
    stopped = [_stop(bringup, service) for service in SERVICES.values()]
    if not any(stopped):
        print("services  nothing to stop: none was started here, or all have ended")
    return 0


def _stop(bringup: Bringup, service: Service) -> bool:
    memory = bringup.home.recall(service.name)
    if memory is None:
        return False
    if memory.source == Source.PACKAGES:
        return bringup.instance(service).stop()
    if trouble := docker.trouble():
        say(service, f"was started in a container, but {trouble}: not running, as far as can be seen")
        return False
    return bringup.project.stop(service)


def status(bringup: Bringup, _using: Source | None) -> int:
    """One line for each; 0 when all are ready."""
    ready = [_status(bringup, service) for service in SERVICES.values()]
    return 0 if all(ready) else 1


def _status(bringup: Bringup, service: Service) -> bool:
    memory = bringup.home.recall(service.name)
    if memory is None:
        named = bool(os.environ.get(service.variable))
        say(service, f"given by {service.variable}" if named else "was not started here: make services")
        return named
    where = ", ".join(f"{name} 127.0.0.1:{memory.ports[name]}" for name in service.usual_ports)
    try:
        service.check(memory.ports)
    except NotReadyError as reason:
        say(service, f"not ready ({memory.source}): {reason}")
        return False
    say(service, f"ready ({memory.source}): {where}")
    return True


def clean(bringup: Bringup, using: Source | None) -> int:
    """End them and delete their data."""
    stop(bringup, using)
    trouble = docker.trouble()
    if trouble is None and bringup.project.delete():
        print("services  containers and volumes deleted")
    if trouble and any(memory.source == Source.DOCKER for memory in map(bringup.home.recall, SERVICES) if memory):
        raise ServiceError(f"the data is in Docker volumes, but {trouble}: start Docker and run `make clean` again")
    bringup.home.delete()
    print(f"services  data deleted: {bringup.home.data}")
    return 0


COMMANDS = {"up": up, "stop": stop, "status": status, "clean": clean}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python3 -m dev", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--root", type=Path, default=Path(".local"), help="where their data is kept (.local)")
    parser.add_argument("--using", type=Source, choices=[Source.DOCKER, Source.PACKAGES], help="insist on one way")
    return parser.parse_args(arguments)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Run one command; the exit code tells whether it did what it should."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    home = Home(options.root)
    try:
        with home.locked(lambda line: print(f"services  {line}", flush=True)):
            return COMMANDS[options.command](Bringup(home, os.environ, say), options.using)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"{error.filename} is not ours: use the user it belongs to, or another --root", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("services  interrupted; what was started goes on: the next `make services` takes it up", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
