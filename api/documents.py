"""The API's documentation: `/openapi.json` for machines, and `/docs` for people as one page without scripts."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(__file__).parent / "pages"


@dataclass(frozen=True, slots=True)
class _Documents:
    document: bytes
    page: bytes
    policy: str


class DocumentEndpoints:
    """The OpenAPI document and its page. The first request generates both, so the start of a process does not wait for them."""

    def __init__(self, describe: Callable[[], dict[str, object]]):
        self._describe = describe
        self._documents: asyncio.Future[_Documents] | None = None

    async def openapi(self, request: Request) -> Response:
        return Response((await self._generated()).document, media_type="application/json")

    async def docs(self, request: Request) -> Response:
        documents = await self._generated()
        return Response(documents.page, media_type="text/html", headers={"Content-Security-Policy": documents.policy})

    async def _generated(self) -> _Documents:
        """Generate in a thread, as it takes a tenth of a second. The shield protects other requests from a disconnect."""
        if self._documents is None:
            self._documents = asyncio.ensure_future(asyncio.to_thread(self._generate))
        return await asyncio.shield(self._documents)

    def _generate(self) -> _Documents:
        document = self._describe()
        style = (_FOLDER / "docs.css").read_text("utf-8")
        pages = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        pages.filters["pretty"] = lambda value: orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        html = pages.get_template("docs.html").render(document=document, style=style)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"
        return _Documents(orjson.dumps(document), html.encode(), policy)
