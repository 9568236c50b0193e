"""Sessions: which cookies are valid, for how long, and under which key."""

import pytest

from api.callers import Caller
from api.console.pages import own_path
from api.console.sessions import SESSION_SECONDS, Session, Viewer, is_token, issue, new_token, parse, token_of
from infra.keys import Scope, new_key
from infra.postgres.api_keys import RESERVED

KEY, OTHER = new_key(), new_key()
NOW = 1_795_000_000.0


def _session(cookie: str, now: float = NOW) -> Session:
    session = parse(cookie, now)
    assert session is not None
    return session


def test_a_session_is_signed_by_its_key_alone() -> None:
    session = _session(issue(KEY.prefix, KEY.hash, NOW))
    assert session.is_signed(KEY.hash) and not session.is_signed(OTHER.hash)
    assert KEY.key.rpartition("_")[2] not in issue(KEY.prefix, KEY.hash, NOW)


def test_a_session_ends_after_twelve_hours() -> None:
    cookie = issue(KEY.prefix, KEY.hash, NOW)
    assert parse(cookie, NOW + SESSION_SECONDS - 1) is not None
    assert parse(cookie, NOW + SESSION_SECONDS) is None


@pytest.mark.parametrize("part", [0, 1, 2])
def test_no_part_of_a_session_can_be_changed(part: int) -> None:
    parts = issue(KEY.prefix, KEY.hash, NOW).split(".")
    parts[part] = [OTHER.prefix, str(int(parts[1]) + 1), "0" * 64][part]
    assert not _session(".".join(parts)).is_signed(KEY.hash)


@pytest.mark.parametrize("cookie", ["", "x", "{}.1", "{}.1000000000000.{:064}", "{}.-1.{:064}"])
def test_malformed_cookies_are_no_sessions(cookie: str) -> None:
    assert parse(cookie.format(KEY.prefix, 0), NOW) is None


def test_the_reserved_first_key_has_no_sessions() -> None:
    """Everybody knows its empty hash."""
    forged = issue(RESERVED, "", NOW)
    assert parse(forged, NOW) is None
    _, expires_at, signature = forged.split(".")
    assert not Session(RESERVED, int(expires_at), signature).is_signed("")


def test_the_token_of_forms_is_neither_the_signature_nor_that_of_another_session() -> None:
    first, second = (_session(issue(KEY.prefix, KEY.hash, NOW + later)) for later in (0, 1))
    assert len({token_of(first, KEY.hash), token_of(second, KEY.hash), token_of(first, OTHER.hash), first.signature}) == 4


def test_new_tokens_differ_and_are_recognized() -> None:
    first, second = new_token(), new_token()
    assert first != second and is_token(first) and not is_token(first[:-1]) and not is_token("")


def test_a_viewer_is_active_while_key_and_session_are() -> None:
    caller = Caller("shop", frozenset({Scope.REPORTS}), KEY.prefix, KEY.hash)
    viewer = Viewer(caller, "", int(NOW))
    assert viewer.is_active(NOW - 1) and not viewer.is_active(NOW)
    assert viewer.may(None) and viewer.may(Scope.REPORTS) and not viewer.may(Scope.ADMIN)
    caller.usable = False
    assert not viewer.is_active(NOW - 1)


@pytest.mark.parametrize("path", ["/", "/console/messages", "/console/messages?status=failed&tag=a%20b", "/?x=1"])
def test_paths_of_the_console_lead_back(path: str) -> None:
    assert own_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/console/..//\nx",
        "javascript:alert(1)",
        "",
        "/messages",
        "/console/x#y",
    ],
)
def test_other_paths_lead_to_the_start_page(path: str) -> None:
    assert own_path(path) == "/"
