"""`python -m consumers messages reports` and `python -m consumers relay`: one worker or relay process."""

import asyncio
import signal
import sys

import uvloop

import infra  # noqa: F401  first: it imports structlog without rich
from consumers.relay_process import run_relay
from consumers.watchdog import ConsumerStuck
from consumers.worker import run_worker
from infra import logs
from infra.monitoring import exposition
from infra.postgres.compatibility import ForeignNamespace, SchemaTooOld
from infra.supervision import collect_rarely, raise_limit
from jobs.model import Kind
from service.settings import Settings, SettingsError, load

KINDS = {f"{kind}s": kind for kind in Kind}
USAGE = f"usage: python -m consumers relay | {' '.join(f'[{name}]' for name in KINDS)}"


async def _run(roles: list[str], settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if roles == ["relay"]:
        await run_relay(settings, stop)
    else:
        await run_worker(settings, stop, frozenset(KINDS[role] for role in roles))


def main() -> int:
    """Run until SIGTERM or SIGINT. 1: the settings or the schema do not fit, or a consumer is stuck; 2: wrong arguments."""
    roles = sys.argv[1:]
    if roles != ["relay"] and (not roles or set(roles) - set(KINDS)):
        print(USAGE, file=sys.stderr)
        return 2
    raise_limit()
    try:
        settings = load()
        logs.configure(settings.log_level, json=settings.log_format == "json", tracing=settings.tracing != "off")
        collect_rarely()
        try:
            with exposition.serve(settings.metrics_host, settings.metrics_port):
                uvloop.run(_run(roles, settings))
        except* ConsumerStuck as errors:
            raise errors.exceptions[0] from None
    except (SettingsError, SchemaTooOld, ForeignNamespace, ConsumerStuck, exposition.PortTaken) as error:
        print(f"posthaste {' '.join(roles)}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
