"""The API's own description: `/openapi.json` for machines, `/docs` for people. One page, without scripts."""

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent / "pages"


@dataclass(frozen=True, slots=True)
class DocumentRoutes:
    """The document as it is, and as a page; both are made once."""

    document: dict[str, Any]
    _page: bytes = field(init=False)
    _policy: str = field(init=False)

    def __post_init__(self) -> None:
        style = (_FOLDER / "docs.css").read_text("utf-8")
        pages = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        pages.filters["pretty"] = lambda value: orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        html = pages.get_template("docs.html").render(document=self.document, style=style)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        object.__setattr__(self, "_page", html.encode())
        object.__setattr__(self, "_policy", f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'")

    def routes(self) -> list[Route]:
        return [
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route("/docs", self.docs, methods=["GET"]),
        ]

    async def openapi(self, request: Request) -> Response:
        return Response(orjson.dumps(self.document), media_type="application/json")

    async def docs(self, request: Request) -> Response:
        return Response(self._page, media_type="text/html", headers={"Content-Security-Policy": self._policy})
