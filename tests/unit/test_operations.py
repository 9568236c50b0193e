"""Routes, guards and document derive from the table of operations. Each operation is called with and without its scope."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import limits
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.callers import Access, Endpoint, Keyring
from api.openapi import document
from api.operations import OPERATIONS, Endpoints, Operation
from api.problems import EXCEPTION_HANDLERS
from infra.keys import KeyRecord, Scope, new_key
from tests.support.asgi import call

ID = "0190163d-8694-739b-aea5-966c26f8ad91"
DOCUMENT = document("1", ["sandbox"])
GRANTABLE = frozenset(Scope) - {Scope.ADMIN}


class Answering:
    """Endpoints of any name. Each answers a request that reaches it."""

    def __getattr__(self, name: str) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            return JSONResponse({"code": "reached"})

        return endpoint


async def unlimited(limit: object, name: str) -> None:
    return None


class Keys:
    """One key for each set of scopes."""

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}

    async def find(self, prefixes: Sequence[str], timeout: float) -> list[KeyRecord | None]:
        return [self.records.get(prefix) for prefix in prefixes]

    async def any(self, timeout: float) -> bool:
        return True

    def add(self, scopes: frozenset[Scope]) -> str:
        key = new_key()
        self.records[key.prefix] = KeyRecord(key.prefix, "shop", key.hash, scopes, usable=True)
        return key.key


class Guarded:
    """The real routes and guards, and keys of any scopes."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.keyring = Keyring(self.keys, lambda: None, off=False, may_be_open=False)
        limit = limits.parse("1/second")
        access = Access(self.keyring, unlimited, limit, limit)
        endpoints = Endpoints(*(cast(Any, Answering()) for _ in fields(Endpoints)))
        routes = [operation.route(endpoints, access) for operation in OPERATIONS]
        self.app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)

    async def code(self, operation: Operation, scopes: frozenset[Scope] | None) -> tuple[int, str]:
        headers = {} if scopes is None else {"Authorization": f"Bearer {self.keys.add(scopes)}"}
        await self.keyring.refresh()
        status, answer = await call(
            self.app, operation.path.replace("{id}", ID).replace("{name}", "nightly"), operation.method, headers
        )
        return status, answer["code"]


def _documented_scope(operation: Operation) -> Scope | None:
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]
    found = re.fullmatch(r"For keys with the scope `([^`]+)`\.", described.get("description", ""))
    assert bool(found) == bool(described["security"])
    return Scope(found[1]) if found else None


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_the_documented_scope_is_the_enforced_one(operation: Operation) -> None:
    guarded, scope = Guarded(), _documented_scope(operation)
    if scope is None:
        assert await guarded.code(operation, None) == (200, "reached")
        assert await guarded.code(operation, frozenset()) == (200, "reached")
        return
    assert await guarded.code(operation, None) == (401, "unauthorized")
    assert await guarded.code(operation, GRANTABLE - {scope}) == (403, "forbidden")
    assert await guarded.code(operation, frozenset({scope})) == (200, "reached")
    assert await guarded.code(operation, frozenset({Scope.ADMIN})) == (200, "reached")


def test_the_document_has_every_operation_once() -> None:
    documented = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert documented == {(operation.method, operation.path) for operation in OPERATIONS}
    assert len(documented) == len(OPERATIONS)
    names = [described["operationId"] for methods in DOCUMENT["paths"].values() for described in methods.values()]
    assert len(set(names)) == len(OPERATIONS)


@dataclass
class Naming:
    """Endpoints that are their own names."""

    group: str

    def __getattr__(self, name: str) -> str:
        return f"{self.group}.{name}"


def test_no_endpoint_serves_two_operations() -> None:
    """Except for `/message/{id}/status`, the alias of `/messages/{id}/status`."""
    endpoints = Endpoints(*(cast(Any, Naming(field.name)) for field in fields(Endpoints)))
    served = {(operation.endpoint(endpoints), operation.path.replace("/message/", "/messages/")) for operation in OPERATIONS}
    assert len(served) == len({endpoint for endpoint, _ in served}) == len(OPERATIONS) - 1
