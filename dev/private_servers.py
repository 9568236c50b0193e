"""Private RabbitMQ, Postgres and Redis for one run, from the distribution's packages."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dev.instance import Instance
from dev.stack import environment_without_settings

_CHECKOUT = Path(__file__).parents[1]


@asynccontextmanager
async def private_servers(purpose: str) -> AsyncIterator[tuple[dict[str, Instance], Path]]:
    """Start the servers, installing packages that are missing; delete them with their data afterwards.

    Yields the instances by name, and a folder for logs.
    """
    with tempfile.TemporaryDirectory(prefix=f"posthaste-{purpose}-") as folder:
        root = Path(folder)
        instances = {name: Instance.of(name, root) for name in ("postgres", "rabbitmq", "redis")}
        try:
            up = [sys.executable, "-m", "dev", "up", "--root", str(root), "--using", "packages"]
            await asyncio.to_thread(
                subprocess.run, up, cwd=_CHECKOUT, check=True, stdout=sys.stderr, env=environment_without_settings()
            )
            yield instances, root
        finally:
            for instance in instances.values():
                await asyncio.to_thread(instance.stop)
            instances["redis"].home.delete()
