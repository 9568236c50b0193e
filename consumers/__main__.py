"""`python -m consumers messages` and `python -m consumers relay`: one worker or relay process."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

from consumers.app import run_relay, run_worker
from infra import logs
from infra.postgres.schema import ForeignNamespace, SchemaTooOld
from infra.settings import Settings, SettingsError, load

ROLES: dict[str, Callable[[Settings, asyncio.Event], Awaitable[None]]] = {"messages": run_worker, "relay": run_relay}


async def _run(role: str, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await ROLES[role](settings, stop)


def main() -> int:
    """Run until SIGTERM or SIGINT; 1 where the settings or the schema do not fit, with the reason on standard error."""
    if len(sys.argv) != 2 or sys.argv[1] not in ROLES:
        print(f"usage: python -m consumers {'|'.join(ROLES)}", file=sys.stderr)
        return 2
    try:
        settings = load()
        logs.configure(settings.log_level, json=settings.log_format == "json")
        uvloop.run(_run(sys.argv[1], settings))
    except (SettingsError, SchemaTooOld, ForeignNamespace) as error:
        print(f"posthaste {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
