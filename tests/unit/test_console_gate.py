"""The gate of the console: the bounds of a form, and its cookies."""

from collections.abc import Sequence

import pytest
from limits import parse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from api.callers import Access, Keyring
from api.console.assets import load_assets
from api.console.gate import MAX_FORM_BYTES, SESSION_COOKIE, TOKEN_COOKIE, TOKEN_FIELD, Gate, GuardedView
from api.console.pages import Pages
from api.console.sessions import new_token
from infra.keys import KeyRecord
from infra.redis.rates import LimitExceeded

_FORM = "application/x-www-form-urlencoded"


class Keys:
    """A ledger in which keys exist, and none of them is usable."""

    async def find(self, prefixes: Sequence[str], timeout: float) -> list[KeyRecord | None]:
        return [None for _ in prefixes]

    async def any(self, timeout: float) -> bool:
        return True


async def _unlimited(limit: object, name: str) -> LimitExceeded | None:
    return None


async def _shown(request: Request) -> Response:
    return Response("shown")


@pytest.fixture
async def gate() -> Gate:
    keyring = Keyring(Keys(), lambda: None, off=False, may_be_open=False)
    await keyring.refresh()
    limit = parse("60/minute")
    return Gate(keyring, Access(keyring, _unlimited, limit, limit), Pages(load_assets(), []))


async def _call(
    view: GuardedView, method: str, path: str, headers: dict[str, str], chunks: Sequence[bytes] = ()
) -> tuple[Message, int]:
    """Send one request. Returns the head of its answer, and the number of body chunks that the view read."""
    listed = [(name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()]
    path, _, query = path.partition("?")
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": listed}
    scope |= {"scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1)}
    left, sent = list(chunks), []

    async def receive() -> Message:
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    await view(scope, receive, send)
    return sent[0], len(chunks) - len(left)


@pytest.mark.parametrize("length", [f"{90_000_439:030}", f"{4:021}", str(MAX_FORM_BYTES + 1), "-1", "x", ""])
async def test_a_form_of_another_length_is_not_read(gate: Gate, length: str) -> None:
    answer, read = await _call(gate.public(_shown), "POST", "/", {"content-type": _FORM, "content-length": length}, [b"a=b"])
    assert (answer["status"], read) == (413, 0)
    assert (b"connection", b"close") in answer["headers"]


async def test_a_body_longer_than_its_header_is_not_read_to_its_end(gate: Gate) -> None:
    chunks = [b"a" * 1024] * 1000
    headers = {"content-type": _FORM, "content-length": "3", "transfer-encoding": "chunked"}
    answer, read = await _call(gate.public(_shown), "POST", "/", headers, chunks)
    assert (answer["status"], read) == (413, MAX_FORM_BYTES // 1024 + 1)


async def test_a_link_of_another_site_leaves_the_session(gate: Gate) -> None:
    """Browsers send no cookie of SameSite=Strict there, so its absence shows nothing."""
    answer, _ = await _call(gate.signed_in(_shown, None), "GET", "/console/messages", {"sec-fetch-site": "cross-site"})
    assert answer["status"] == 303 and not any(name == b"set-cookie" for name, _ in answer["headers"])


async def test_a_session_that_is_over_loses_its_cookie(gate: Gate) -> None:
    answer, _ = await _call(gate.signed_in(_shown, None), "GET", "/", {"cookie": f"{SESSION_COOKIE}=ph_x"})
    assert answer["status"] == 303
    assert [value.partition(b"=")[0] for name, value in answer["headers"] if name == b"set-cookie"] == [SESSION_COOKIE.encode()]


async def test_a_nul_character_in_a_query_or_a_form_is_refused(gate: Gate) -> None:
    """Postgres stores none, and its driver raises a plain ValueError."""
    token, body = new_token(), f"a=%00&{TOKEN_FIELD}="
    headers = {"content-type": _FORM, "cookie": f"{TOKEN_COOKIE}={token}"}
    for method, path, form in (("GET", "/?old=a%00", ""), ("GET", "/?%00=a", ""), ("POST", "/", body + token)):
        sent = headers | {"content-length": str(len(form))}
        answer, _ = await _call(gate.public(_shown), method, path, sent, [form.encode()])
        assert answer["status"] == 422, (method, path)
    valid = f"a=b&{TOKEN_FIELD}={token}".encode()
    answer, _ = await _call(gate.public(_shown), "POST", "/?old=a", headers | {"content-length": str(len(valid))}, [valid])
    assert answer["status"] == 200
