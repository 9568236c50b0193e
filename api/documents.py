"""The API's documentation: `/openapi.json` for machines, and `/docs` for people as one page without scripts."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import orjson
from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from api.answers import as_json

_FOLDER = Path(__file__).parent / "pages"


class DocumentEndpoints:
    """The OpenAPI document and its page. The first request generates both, so the start of a process does not wait for them."""

    def __init__(self, describe: Callable[[], dict[str, object]]):
        self._describe = describe
        self._answers: asyncio.Future[tuple[Response, Response]] | None = None

    async def openapi(self, request: Request) -> Response:
        return (await self._generated())[0]

    async def docs(self, request: Request) -> Response:
        return (await self._generated())[1]

    async def _generated(self) -> tuple[Response, Response]:
        """Generate in a thread, as it takes a tenth of a second. The shield protects other requests from a disconnect."""
        if self._answers is None:
            self._answers = asyncio.ensure_future(asyncio.to_thread(self._generate))
        return await asyncio.shield(self._answers)

    def _generate(self) -> tuple[Response, Response]:
        document = self._describe()
        style = (_FOLDER / "docs.css").read_text("utf-8")
        pages = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        pages.filters["pretty"] = lambda value: orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        html = pages.get_template("docs.html").render(document=document, style=style)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"
        return as_json(document), HTMLResponse(html, headers={"Content-Security-Policy": policy})
