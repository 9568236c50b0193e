"""The OpenAPI document and its page are built once, at the first request."""

import asyncio
from typing import Any

from starlette.requests import Request

from api.documents import DocumentEndpoints
from api.openapi import document

REQUEST = Request({"type": "http", "path": "/docs", "query_string": b"", "headers": [(b"host", b"localhost:9006")]})


async def test_the_document_is_made_at_the_first_request_and_once() -> None:
    creations: list[int] = []

    def describe() -> dict[str, Any]:
        creations.append(1)
        return document("1", ["sandbox"])

    documents = DocumentEndpoints(describe, lambda: False)
    assert creations == []
    for answer in (documents.openapi, documents.docs, documents.docs, documents.openapi):
        assert (await answer(REQUEST)).status_code == 200
    assert creations == [1]


async def test_a_client_that_leaves_does_not_take_the_document_away_from_others() -> None:
    documents = DocumentEndpoints(lambda: document("1", ["sandbox"]), lambda: False)
    leaving, staying = (asyncio.ensure_future(documents.docs(REQUEST)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).status_code == 200
