"""The OpenAPI document and the API agree."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from api import models, shapes
from api.operations import OPERATIONS
from tests.support.stack import Stack

ID = "0190163d-8694-739b-aea5-966c26f8ad91"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    return shared_stack


@pytest.mark.asyncio(loop_scope="module")
async def test_the_document_and_the_routes_agree(stack: Stack) -> None:
    """Every documented operation exists; an answer to any other method names the allowed ones."""
    code, document = await stack.get("/openapi.json")
    assert code == 200 and document["openapi"] == "3.1.0"
    documented = {path: {method.upper() for method in operations} for path, operations in document["paths"].items()}
    assert documented == {path: {op.method for op in OPERATIONS if op.path == path} for path in {op.path for op in OPERATIONS}}
    assert len(OPERATIONS) == sum(map(len, documented.values()))
    for path, methods in documented.items():
        other = next(method for method in METHODS if method not in methods)
        async with stack.session.request(other, stack.base + path.replace("{id}", ID).replace("{name}", "nightly")) as response:
            assert response.status == 405, path
            assert {method for method in response.headers["Allow"].split(", ") if method != "HEAD"} == methods


def test_the_api_has_no_route_outside_the_two_tables() -> None:
    """Routes that code adds elsewhere have no guard. `views.py` has those of the console."""
    sources = {file.name: file.read_text() for file in Path("api").rglob("*.py")}
    found = {name for name, text in sources.items() if re.search(r"\bRoute\(|add_route|\bMount\(", text)}
    assert found == {"operations.py", "views.py"}


def test_every_reference_leads_somewhere_and_every_model_is_used() -> None:
    from api.openapi import document

    text = json.dumps(document("1", ["sandbox"]))
    named = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    schemas = json.loads(text)["components"]["schemas"]
    assert named <= set(schemas)
    assert named == set(schemas) - {op.query.__name__ for op in OPERATIONS if op.query}
    for model in (models.MessageIn, models.BatchIn, models.DeadLetterBatch, shapes.ProblemOut, shapes.MessageOut):
        assert model.__name__ in named


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_says_the_same_without_a_script(stack: Stack) -> None:
    async with stack.session.get(f"{stack.base}/docs") as response:
        page = await response.text()
        assert response.content_type == "text/html"
        assert "script" not in response.headers["Content-Security-Policy"] and "<script" not in page
        assert "style-src 'sha256-" in response.headers["Content-Security-Policy"]
    for operation in OPERATIONS:
        assert f"<code>{operation.path}</code>" in page


@pytest.mark.asyncio(loop_scope="module")
async def test_the_console_links_the_page(stack: Stack) -> None:
    async with stack.session.get(f"{stack.base}/", allow_redirects=False) as response:
        assert response.status == 200 and 'href="/docs"' in await response.text()


@pytest.mark.asyncio(loop_scope="module")
async def test_answers_tell_browsers_to_make_nothing_of_them(stack: Stack) -> None:
    for path in ("/version", "/nothing", f"/messages/{ID}", "/docs", "/openapi.json"):
        async with stack.session.get(stack.base + path) as response:
            response_headers: Any = response.headers
            assert (response_headers["X-Content-Type-Options"], response_headers["Referrer-Policy"]) == (
                "nosniff",
                "no-referrer",
            )
            assert "default-src 'none'" in response_headers["Content-Security-Policy"]
            assert response_headers["Cache-Control"] == "no-store"
            assert "Server" not in response_headers
