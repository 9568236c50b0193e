"""A TCP proxy that fails like a network: it refuses, cuts or freezes connections, or swallows exactly one answer."""

import asyncio
from contextlib import suppress

from infra.postgres.prepared import PreparedStatement


class Proxy:
    """Forwards a free port to a target, as raw bytes in both directions."""

    def __init__(self, host: str, port: int):
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._cut_on_answer = 0
        self._needle = b""
        self.answers_cut = 0
        self._bytes_per_second = 0.0
        self._latency = 0.0
        self.port = 0

    async def start(self) -> "Proxy":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def refuse(self) -> None:
        """Stop listening and cut every connection: the service is down."""
        assert self._server is not None
        self._server.close()
        self.cut()

    async def accept(self) -> None:
        """Listen again on the same port."""
        await self.start()

    def cut(self) -> None:
        """Reset all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def freeze(self) -> None:
        """Accept and keep connections but forward nothing, like SIGSTOP."""
        self._thawed.clear()

    async def thaw(self) -> None:
        self._thawed.set()

    def forsake(self) -> None:
        """Silence all present connections for ever; new ones work, as after the loss of a host."""
        self._thawed.clear()
        self._thawed = asyncio.Event()
        self._thawed.set()

    def throttle(self, bytes_per_second: float) -> None:
        """Limit the rate of each connection's answers; 0 removes the limit."""
        self._bytes_per_second = bytes_per_second

    def delay(self, seconds: float) -> None:
        """Delay all bytes in both directions; 0 removes the delay."""
        self._latency = seconds

    def ports(self) -> set[int]:
        """The local ports towards the target, by which the target names its connections."""
        return {writer.get_extra_info("sockname")[1] for writer in self._writers}

    def cut_on_answer(self, needle: bytes, times: int = 1) -> None:
        """Pass the next `times` requests that contain `needle`; swallow the first bytes of their answers and cut."""
        self._needle = needle
        self._cut_on_answer = times

    async def close(self) -> None:
        await self.thaw()
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._thawed.wait()
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        finally:
            self._tasks.discard(task)
        self._writers.add(far_writer)
        armed, thawed = asyncio.Event(), self._thawed
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer, armed, thawed, asking=True)),
            asyncio.create_task(self._pump(far_reader, writer, armed, thawed, asking=False)),
        ]
        self._tasks.update(pumps)
        with suppress(asyncio.CancelledError):
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for end in (writer, far_writer):
            end.transport.abort()
            self._writers.discard(end)
        self._tasks.difference_update(pumps)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        armed: asyncio.Event,
        thawed: asyncio.Event,
        *,
        asking: bool,
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                await thawed.wait()
                if self._latency:
                    await asyncio.sleep(self._latency)
                if asking and self._cut_on_answer and self._needle in data:
                    self._cut_on_answer -= 1
                    armed.set()
                elif not asking and armed.is_set():
                    self.answers_cut += 1
                    return  # the answer is swallowed, and the connection with it
                if self._bytes_per_second and not asking:
                    await asyncio.sleep(len(data) / self._bytes_per_second)
                sink.write(data)
                await sink.drain()


def executed(statement: PreparedStatement) -> bytes:
    """What a client sends to execute a prepared statement: the needle whose answer a proxy cuts, after the commit."""
    return f"EXECUTE {statement.name} ".encode()
