"""The start of a consumer process: it waits for a schema that fits."""

import asyncio

from infra.postgres import compatibility
from infra.postgres.pool import DatabasePool


async def wait_for_schema(pool: DatabasePool, namespace: str, stop: asyncio.Event) -> bool:
    """Wait until Postgres answers and its schema fits this release. False: `stop` was set first.

    Raises:
        SchemaTooOld, ForeignNamespace: the database does not fit.
    """
    schema_check = asyncio.ensure_future(compatibility.wait_until_fit(pool, namespace, lambda _: None))
    shutdown = asyncio.ensure_future(stop.wait())
    await asyncio.wait({schema_check, shutdown}, return_when=asyncio.FIRST_COMPLETED)
    shutdown.cancel()
    if not schema_check.done():
        schema_check.cancel()
        return False
    schema_check.result()
    return True
