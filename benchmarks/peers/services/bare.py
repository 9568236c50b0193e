"""A bare Starlette route: it reads the JSON and answers. No service on this stack accepts faster.

https://www.starlette.io/
"""

from uuid import uuid4

from benchmarks.peers.services.web import service


async def _submit(_destination: str, _body: str) -> str:
    return str(uuid4())


async def _read(_id: str) -> str:
    return "sent"


app = service(_submit, _read)
