"""The HTTP side of every peer: POST /messages and GET /message/{id}/status. Its addresses come from the environment."""

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

AMQP = os.environ["BENCH_AMQP_URL"]
DATABASE = os.environ["BENCH_DATABASE_URL"]
PROVIDER = os.environ["BENCH_PROVIDER_URL"]
REDIS = os.environ["BENCH_REDIS_URL"]
SLOTS = 64  # simultaneous provider calls of a worker, as Posthaste has by default
STATUS_SECONDS = 3600

Submit = Callable[[str, str], Awaitable[str]]  # destination, body → id
Read = Callable[[str], Awaitable[str]]  # id → status
Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def service(submit: Submit, read: Read, lifespan: Lifespan | None = None) -> Starlette:
    """The application. `submit` returns once the message is durable."""

    async def accept(request: Request) -> JSONResponse:
        fields = await request.json()
        if not isinstance(fields.get("destination"), str) or not isinstance(fields.get("body"), str):
            return JSONResponse({"error": "destination and body are required"}, status_code=422)
        id_ = await submit(fields["destination"], fields["body"])
        return JSONResponse({"id": id_, "status": "queued"}, status_code=202)

    async def status(request: Request) -> JSONResponse:
        return JSONResponse({"status": await read(request.path_params["id"])})

    routes = [Route("/messages", accept, methods=["POST"]), Route("/message/{id}/status", status)]
    return Starlette(routes=routes, lifespan=lifespan)


def status_in_redis() -> Read:
    """Read the status that the worker wrote to Redis; without one, the message is queued."""
    redis = Redis.from_url(REDIS, decode_responses=True)

    async def read(id_: str) -> str:
        return str(await redis.get(f"status:{id_}") or "queued")

    return read
