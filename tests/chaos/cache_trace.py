"""Every write to the status cache in the order of Redis, from its MONITOR."""

import asyncio
import re
from urllib.parse import urlsplit

from tests.chaos.evidence import CacheWrite

_SET = re.compile(rb'^\+(\d+\.\d+) \[\d+ lua\] "SET" "[^"]*:job:([0-9a-f-]{36})" "(\d+) [^"]*" "PX" "(\d+)"')
_WIPED = re.compile(rb'^\+(\d+\.\d+) .* "FLUSHALL"', re.IGNORECASE)


async def trace(url: str, writes: list[CacheWrite]) -> None:
    """Append to `writes` until cancelled; a restarted Redis is empty."""
    parts = urlsplit(url)
    while True:
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writes.append(CacheWrite(0.0))
            writer.write(b"MONITOR\r\n")
            while line := await reader.readline():
                if found := _SET.match(line):
                    writes.append(CacheWrite(float(found[1]), found[2].decode(), int(found[3]), int(found[4])))
                elif found := _WIPED.match(line):
                    writes.append(CacheWrite(float(found[1])))
            writer.close()
        except OSError:
            pass  # a fault stopped Redis: the next connection records the loss of its data
        await asyncio.sleep(0.02)
