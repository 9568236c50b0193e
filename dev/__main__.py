"""The command: python -m dev up|stop|clean|tools [--root .local] [--using docker|packages]."""

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from dev import containers, tools
from dev.bringup import Bringup
from dev.errors import ServiceError
from dev.home import Home
from dev.instance import SERVICES
from dev.process import Process
from dev.service import Service
from dev.source import Source

PRINTING = threading.Lock()
SECONDS_TO_END_A_RUN = 60  # above the workers' shutdown grace


def report(service: Service, line: str) -> None:
    """One line about one service; lines of services starting in parallel do not mix."""
    with PRINTING:
        print(f"{service.name:<9} {line}", flush=True)


def _say(line: str) -> None:
    print(f"services  {line}", flush=True)


def up(bringup: Bringup, using: Source | None) -> None:
    """Start all three; running ones stay as they are."""
    print(f"services  all ready; where they are: {bringup.run(using)}")


def stop(bringup: Bringup, _using: Source | None) -> None:
    """Stop the services that were started for this root, and no others."""
    runs = [_stop_run(record) for record in sorted(bringup.home.root.glob("up-*.json"))]
    stopped = [_stop(bringup, service) for service in SERVICES.values()]
    if not any(runs + stopped):
        print("services  nothing to stop: none was started here, or all have ended")


def _stop_run(record: Path) -> bool:
    """End a `posthaste up` of this root, which finishes its jobs in progress. A killed one has left only its record."""
    run = Process(**json.loads(record.read_text()))
    if running := run.is_alive():
        print(f"posthaste ends the run of process {run.pid}", flush=True)
        run.end(signal.SIGTERM, SECONDS_TO_END_A_RUN)
    record.unlink(missing_ok=True)
    return running


def _stop(bringup: Bringup, service: Service) -> bool:
    record = bringup.home.load(service.name)
    if record is None:
        return False
    if record.source == Source.PACKAGES:
        return bringup.instance(service).stop()
    if trouble := containers.trouble():
        report(service, f"was started in a container, but {trouble}: not running, as far as can be seen")
        return False
    return bringup.project.stop(service)


def clean(bringup: Bringup, using: Source | None) -> None:
    """Stop them and delete their data."""
    stop(bringup, using)
    trouble = containers.trouble()
    if trouble is None and bringup.project.delete():
        print("services  containers and volumes deleted")
    if trouble and any(record.source == Source.DOCKER for record in map(bringup.home.load, SERVICES) if record):
        raise ServiceError(f"the data is in Docker volumes, but {trouble}: start Docker and run `make clean` again")
    bringup.home.delete()
    print(f"services  data deleted: {bringup.home.data}")


def install_tools(bringup: Bringup, _using: Source | None) -> None:
    """Install the programs that the tests run."""
    tools.install_missing(bringup.home.root / "tools.log", lambda line: print(f"tools     {line}", flush=True))


COMMANDS = {"up": up, "stop": stop, "clean": clean, "tools": install_tools}


def main(arguments: list[str]) -> int:
    """Run one command; the exit code is 0 when it succeeded."""
    parser = argparse.ArgumentParser(prog="python -m dev", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--root", type=Path, default=Path(".local"), help="the folder of their data (.local)")
    parser.add_argument("--using", type=Source, choices=[Source.DOCKER, Source.PACKAGES], help="insist on one source")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt
    try:
        home = Home(options.root)
        with home.locked(_say):
            if home.former:
                _say(
                    f"this folder was moved from {home.former} to {home.root}; its services and data were found by their record"
                )
            COMMANDS[options.command](Bringup(home, os.environ, report), options.using)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"{error.filename} is not ours: use the user it belongs to, or another --root", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("services  interrupted; started services continue: the next `make services` waits for them", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
