"""The console's static files: read once, served from memory under URLs that contain a hash of their content."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from api.problems import not_found

BASE = "/console/static"
_FOLDER = Path(__file__).parent / "static"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_CACHED = {"Cache-Control": "public, max-age=31536000, immutable"}  # another content has another URL


@dataclass(frozen=True, slots=True)
class Assets:
    """The static files: `urls` by name, and `files` with their media types by URL."""

    urls: Mapping[str, str]
    files: Mapping[str, tuple[bytes, str]]

    async def serve(self, request: Request) -> Response:
        found = self.files.get(request.url.path)
        if found is None:
            raise not_found("There is no file with this path.")
        return Response(found[0], headers=_CACHED, media_type=found[1])


@cache
def load_assets() -> Assets:
    """Read all static files of the package."""
    urls, files = {}, {}
    for path in sorted(_FOLDER.rglob("*")):
        if path.suffix in _MEDIA_TYPES:
            content, name = path.read_bytes(), path.relative_to(_FOLDER).as_posix()
            url = f"{BASE}/{hashlib.sha256(content).hexdigest()[:16]}/{name}"
            urls[name], files[url] = url, (content, _MEDIA_TYPES[path.suffix])
    return Assets(urls, files)
