"""Name resolution of outgoing calls. Each sender has its own threads, and each look-up a deadline."""

import asyncio
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver, ResolveResult

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
Name = tuple[str, socket.AddressFamily]


class LookUpTimeout(OSError):
    """The name was not resolved in time."""


class ResolverBusy(OSError):
    """Hanging look-ups occupy all threads of the resolver."""


@dataclass(frozen=True, slots=True)
class _Address:
    text: str
    family: socket.AddressFamily
    proto: int


class Resolver(AbstractResolver):
    """Resolves with getaddrinfo in at most `threads` threads; a look-up fails after `seconds`.

    Equal look-ups share one thread, so a hanging name occupies one thread. The threads are daemons: no exit waits for them.
    """

    def __init__(self, *, threads: int, seconds: float):
        self._threads = threads
        self._seconds = seconds
        self._running: dict[Name, asyncio.Future[list[_Address] | OSError]] = {}

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """The addresses of a host.

        Raises:
            OSError: the host has no address; its subclasses `LookUpTimeout` and `ResolverBusy`.
        """
        look_up = self._running.get((host, family)) or self._start((host, family))
        await asyncio.wait({look_up}, timeout=self._seconds)
        if not look_up.done():
            raise LookUpTimeout(f"{host} was not resolved within {self._seconds:g} s")
        result = look_up.result()
        if isinstance(result, OSError):
            raise result
        return [
            ResolveResult(
                hostname=host, host=address.text, port=port, family=address.family, proto=address.proto, flags=_NUMERIC
            )
            for address in result
        ]

    async def close(self) -> None:
        """Required by the interface; the resolver has no resources."""

    def _start(self, name: Name) -> "asyncio.Future[list[_Address] | OSError]":
        if len(self._running) >= self._threads:
            raise ResolverBusy(f"{self._threads} look-ups are running")
        loop = asyncio.get_running_loop()
        self._running[name] = loop.create_future()
        threading.Thread(target=self._work, args=(name, loop), name=f"look-up of {name[0]}", daemon=True).start()
        return self._running[name]

    def _work(self, name: Name, loop: asyncio.AbstractEventLoop) -> None:
        result = _look_up(*name)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._end, name, result)

    def _end(self, name: Name, result: list[_Address] | OSError) -> None:
        look_up = self._running.pop(name)
        if not look_up.cancelled():
            look_up.set_result(result)


def _look_up(host: str, family: socket.AddressFamily) -> list[_Address] | OSError:
    try:
        infos = socket.getaddrinfo(host, 0, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        return [_Address(_text(address), kind, proto) for kind, _, proto, _, address in infos]
    except OSError as error:
        return error
    except UnicodeError as error:  # a name that IDNA cannot encode
        return socket.gaierror(socket.EAI_NONAME, str(error))


def _text(address: tuple[object, ...]) -> str:
    """The address as text, with the scope of a link-local one."""
    if len(address) == 4 and address[3]:
        return socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]  # type: ignore[arg-type]
    return str(address[0])
