"""`python -m api`: one API process. With `--shared-port`, several listen at one port."""

import argparse
import asyncio
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

import infra  # noqa: F401  first: it imports structlog without rich
from api.app import create_api
from api.request_timeout import with_timeout
from infra import logs
from infra.supervision import collect_rarely, raise_limit
from service.settings import SettingsError, load


class _Server(uvicorn.Server):
    """Ends the waiting requests at a signal, because uvicorn's shutdown waits for every request."""

    def __init__(self, config: uvicorn.Config, end_waiting: Callable[[], None]):
        super().__init__(config)
        self._end_waiting = end_waiting

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._end_waiting)
        super().handle_exit(sig, frame)


def _shared(host: str, port: int) -> socket.socket:
    """A socket at a port that several processes share: the kernel distributes the connections (socket(7), SO_REUSEPORT)."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(address)
    return listening


def main() -> int:
    """Serve until SIGTERM or SIGINT. 1 if settings, schema or keys forbid the start; standard error has the reason."""
    parser = argparse.ArgumentParser(prog="python -m api")
    parser.add_argument("--shared-port", action="store_true")
    shares_port = parser.parse_args().shared_port
    raise_limit()
    try:
        settings = load()
        logs.configure(settings.log_level, json=settings.log_format == "json", tracing=settings.tracing != "off")
        failures: list[Exception] = []

        def fatal(error: Exception) -> None:
            failures.append(error)
            server.should_exit = True

        app, end_waiting = create_api(settings, fatal)
    except SettingsError as error:
        print(f"posthaste api: {error}", file=sys.stderr)
        return 1
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=with_timeout(settings.request_timeout_seconds),
        ws="none",
        timeout_keep_alive=65,  # longer than proxies keep idle connections, so the proxy closes first
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        timeout_graceful_shutdown=int(settings.shutdown_grace_seconds),
    )
    server = _Server(config, end_waiting)
    collect_rarely()
    server.run([_shared(settings.host, settings.port)] if shares_port else None)
    for failure in failures:
        print(f"posthaste api: {failure}", file=sys.stderr)
    return 1 if failures or not server.started else 0


if __name__ == "__main__":
    sys.exit(main())
