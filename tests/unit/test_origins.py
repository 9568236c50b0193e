"""Browser requests from foreign pages are refused; all other requests pass."""

from typing import Any

import pytest
from starlette.responses import JSONResponse

from api.middleware import Origins
from tests.support.asgi import call


async def _code(
    method: str = "GET", *, names: tuple[str, ...] = (), listed: bool = False, keys: bool = False, **headers: str
) -> object:
    """The answer: `passed`, or the code of a problem."""
    app = Origins(JSONResponse({"code": "passed"}), names, listed=listed, keys_required=lambda: keys)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, answer = await call(app, "/messages", method, named)
    assert status == {"passed": 200, "unknown_host": 421, "cross_site": 403}[answer["code"]]
    return answer["code"]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:9006", "[::1]:9006", "[::1]", "localhost:9006", "LOCALHOST", "localhost.", "a.localhost:1",
     "192.168.1.7:9006", "[2001:db8::1]", "api:9006", "API"],
)  # fmt: skip
async def test_a_host_that_no_other_site_has_passes(host: str) -> None:
    assert await _code("POST", names=("api",), host=host) == "passed"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9006", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost",
     "evil.example:8:8", "127.0.0.1@evil.example", "[evil]", "", "api.evil.example", "evil.example\\@localhost",
     "localhost" + "." * 300],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_name_that_is_not_listed_is_refused_without_keys(host: str, method: str) -> None:
    assert await _code(method, names=("api",), host=host) == "unknown_host"


async def test_keys_make_every_name_pass_unless_names_are_listed() -> None:
    assert await _code(keys=True, host="proxy.example") == "passed"
    assert await _code(keys=True, names=("api.example",), listed=True, host="proxy.example") == "unknown_host"
    assert await _code(keys=True, names=("api.example",), listed=True, host="api.example") == "passed"
    assert await _code(names=("*",), listed=True, host="proxy.example") == "passed"


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize(
    ("method", "site", "mode", "code"),
    [
        ("POST", "cross-site", "no-cors", "cross_site"),
        ("POST", "cross-site", "navigate", "cross_site"),  # a form
        ("POST", "same-site", "cors", "cross_site"),  # another port of localhost
        ("DELETE", "cross-site", "cors", "cross_site"),
        ("OPTIONS", "cross-site", "cors", "cross_site"),
        ("GET", "cross-site", "no-cors", "cross_site"),  # an image, a script
        ("GET", "cross-site", "cors", "cross_site"),  # an EventSource
        ("GET", "cross-site", "navigate", "passed"),  # a link
        ("GET", "none", "navigate", "passed"),  # typed
        ("GET", "same-origin", "cors", "passed"),
        ("POST", "same-origin", "cors", "passed"),
        ("POST", "none", "no-cors", "passed"),
    ],
)
async def test_only_links_lead_here_from_another_site(method: str, site: str, mode: str, code: str, keys: bool) -> None:
    fetch: dict[str, Any] = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": mode}
    assert await _code(method, keys=keys, host="127.0.0.1:9006", **fetch) == code


@pytest.mark.parametrize(
    ("method", "origin", "code"),
    [
        ("POST", "http://evil.example", "cross_site"),
        ("POST", "http://127.0.0.1:3000", "cross_site"),
        ("POST", "null", "cross_site"),
        ("POST", "http://127.0.0.1:9006", "passed"),
        ("POST", "https://127.0.0.1:9006", "passed"),  # behind a proxy with TLS
        ("GET", "http://evil.example", "passed"),  # it cannot read the answer
    ],
)
async def test_older_browsers_show_the_origin(method: str, origin: str, code: str) -> None:
    assert await _code(method, host="127.0.0.1:9006", origin=origin) == code
