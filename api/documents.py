"""The API's documentation: `/openapi.json` for machines, `/docs` for people as one page without scripts."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from api.answers import as_json
from api.reference import Reference, Schema

_FOLDER = Path(__file__).parent / "pages"
_BASE = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+")  # no character that a shell interprets
_DEFAULT_BASE = "http://127.0.0.1:9006"
_PAGES = 8  # cached ones: by base URL, with and without keys

Page = Callable[[str, bool], Response]


class DocumentEndpoints:
    """The OpenAPI document and its page. The first request generates both, so the start of a process does not wait for them."""

    def __init__(self, describe: Callable[[], Schema], keys_required: Callable[[], bool]):
        self._describe = describe
        self._keys_required = keys_required
        self._generation: asyncio.Future[tuple[Response, Page]] | None = None

    async def openapi(self, request: Request) -> Response:
        return (await self._generated())[0]

    async def docs(self, request: Request) -> Response:
        """The page. Its commands have the base URL of the request, and a key if requests need one."""
        _, page = await self._generated()
        base = str(request.base_url).rstrip("/")
        base = base if _BASE.fullmatch(base) else _DEFAULT_BASE
        return await asyncio.to_thread(page, base, self._keys_required())

    async def _generated(self) -> tuple[Response, Page]:
        """Generate in a thread, as it takes a tenth of a second. The shield protects other requests from a disconnect."""
        if self._generation is None:
            self._generation = asyncio.ensure_future(asyncio.to_thread(self._generate))
        return await asyncio.shield(self._generation)

    def _generate(self) -> tuple[Response, Page]:
        document = self._describe()
        style = (_FOLDER / "docs.css").read_text("utf-8")
        pages = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        template = pages.get_template("docs.html")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"

        @lru_cache(maxsize=_PAGES)
        def page(base: str, keys: bool) -> Response:
            reference = Reference(document, base, keys=keys)
            html = template.render(info=document["info"], reference=reference, marked=reference.marked, keys=keys, style=style)
            return HTMLResponse(html, headers={"Content-Security-Policy": policy})

        return as_json(document), page
