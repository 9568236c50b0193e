"""What every consumer process waits for before it starts."""

import asyncio

from infra.postgres import schema
from infra.postgres.pool import DatabasePool


async def schema_fits(pool: DatabasePool, namespace: str, stop: asyncio.Event) -> bool:
    """Wait until Postgres answers with a schema that this code can run on. False: `stop` was set first.

    Raises:
        SchemaTooOld, ForeignNamespace: the database does not fit.
    """
    fitting = asyncio.ensure_future(schema.wait_until_fit(pool, namespace, lambda _: None))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({fitting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not fitting.done():
        fitting.cancel()
        return False
    fitting.result()
    return True
