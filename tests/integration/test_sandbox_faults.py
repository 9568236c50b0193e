"""A running sandbox lists and changes its faults, and returns an id for each accepted message."""

from dataclasses import asdict
from typing import Any

import aiohttp

from cli.sandbox import Faults
from dev.stack import local_sandbox, serving
from tests.support.waiting import eventually


async def test_faults_are_listed_and_changed_and_one_key_gets_one_id() -> None:
    sandbox = local_sandbox()
    async with serving(sandbox), aiohttp.ClientSession(f"http://127.0.0.1:{sandbox.port}") as session:

        async def faults() -> Any:
            try:
                async with session.get("/faults") as response:
                    return await response.json()
            except aiohttp.ClientConnectionError:
                return None

        async def send(key: str) -> str:
            message = {"destination": "+1", "body": "b"}
            async with session.post("/message", json=message, headers={"Idempotency-Key": key}) as response:
                return str((await response.json())["id"])

        assert await eventually(faults, bool) == asdict(Faults())
        async with session.put("/faults", json={"slow_seconds": 2}) as response:
            changed = await response.json()
        assert changed == await faults() == asdict(Faults(slow_seconds=2))
        first, again, other = await send("a"), await send("a"), await send("b")
        assert first == again != other
