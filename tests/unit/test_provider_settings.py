"""Headers and credentials of providers: each is refused by name, and no secret is shown."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.doctor import _providers
from service.settings import PREFIX, Settings, SettingsError, load
from tests.support.settings import clear_settings, set_settings

HIDDEN = "s3cret-value"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clear_settings(monkeypatch)
    set_settings(monkeypatch, {})
    monkeypatch.chdir(tmp_path)


def _load(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Settings:
    monkeypatch.setenv(f"{PREFIX}PROVIDERS", json.dumps({"a": {"url": "http://127.0.0.1:9/", **fields}}))
    return load()


def _sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """One secret as a text, in the environment and in a file."""
    monkeypatch.setenv("TOKEN", HIDDEN)
    (tmp_path / "token").write_text(f"{HIDDEN}\n")
    return [HIDDEN, {"env": "TOKEN"}, {"file": "token"}]


def test_a_header_and_credentials_are_a_text_a_variable_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for secret in _sources(monkeypatch, tmp_path):
        settings = _load(monkeypatch, headers={"X-Api-Key": secret, "X-Sender": "shop"}, auth={"bearer": secret})
        headers = {"X-Api-Key": HIDDEN, "X-Sender": "shop", "Authorization": f"Bearer {HIDDEN}"}
        assert settings.provider_headers() == {"a": headers}
        settings = _load(monkeypatch, auth={"basic": {"username": "me", "password": secret}})
        expected = base64.b64encode(f"me:{HIDDEN}".encode()).decode()
        assert settings.provider_headers() == {"a": {"Authorization": f"Basic {expected}"}}
    assert _load(monkeypatch).provider_headers() == {"a": {}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"headers": {"Host": "h"}}, ".headers.Host: is reserved"),
        ({"headers": {"idempotency-key": "x"}}, ".headers.idempotency-key: is reserved"),
        ({"headers": {"Content-Type": "x"}}, ".headers.Content-Type: is reserved"),
        ({"headers": {"Content-Length": "1"}}, ".headers.Content-Length: is reserved"),
        ({"headers": {"Transfer-Encoding": "x"}}, ".headers.Transfer-Encoding: is reserved"),
        ({"headers": {"X Key": "x"}}, ".headers.X Key: must be a header's name"),
        ({"headers": {"X-Key": f"{HIDDEN}\r\nX-Other: 1"}}, ".headers.X-Key: must be one line of printable text"),
        ({"headers": {"X-Key": ""}}, ".headers.X-Key: must be one line of printable text"),
        ({"headers": {"X-Key": 5}}, '.headers.X-Key: must be a text, {"env": "NAME"} or {"file": "PATH"}'),
        ({"headers": {"X-Key": {"env": "A", "file": "b"}}}, ".headers.X-Key: must be a text"),
        ({"headers": {"X-Key": {"vault": HIDDEN}}}, ".headers.X-Key.vault"),
        ({"headers": {"X-Key": "1", "x-key": "2"}}, ": headers.X-Key: is set twice"),
        ({"headers": ["X-Key"]}, ".headers"),
        ({"auth": {}}, ".auth: must have either `bearer` or `basic`"),
        ({"auth": {"bearer": "x", "basic": {"username": "u", "password": "p"}}}, ".auth: must have either"),
        ({"auth": {"token": HIDDEN}}, ".auth.token"),
        ({"auth": {"basic": {"username": "a:b", "password": "p"}}}, ".auth.basic.username"),
        ({"auth": {"basic": {"username": "u"}}}, ".auth.basic.password"),
        ({"auth": {"bearer": "x"}, "headers": {"authorization": "x"}}, ": auth: headers.Authorization sets the credentials"),
        ({"auth": {"bearer": "x"}, "url": "http://u:p@h/"}, ": auth: the user in url sets the credentials"),
        ({"message_id_field": ""}, ".message_id_field"),
    ],
)
def test_wrong_headers_and_credentials_are_named(monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"POSTHASTE_PROVIDERS.a{named}")) as caught:
        _load(monkeypatch, **fields)
    assert HIDDEN not in f"{caught.value} {caught.value.__cause__}"


MISSING = [
    ({"auth": {"bearer": {"env": "ABSENT"}}}, "auth.bearer: the environment variable ABSENT is not set"),
    ({"headers": {"X-Key": {"file": "absent"}}}, "headers.X-Key: absent cannot be read: No such file"),
    ({"headers": {"X-Key": {"file": "lines"}}}, "headers.X-Key: must be one line of printable text"),
    ({"headers": {"X-Key": {"file": "binary"}}}, "headers.X-Key: binary is not UTF-8"),
    ({"auth": {"basic": {"username": "u", "password": {"env": "EMPTY"}}}}, "auth.basic.password: must be one line"),
    ({"auth": {"bearer": f"Bearer {HIDDEN}"}}, "auth.bearer: must be the token alone"),
]


@pytest.mark.parametrize(("fields", "named"), MISSING)
def test_a_secret_that_cannot_be_read_is_named_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    """Only workers need the secrets. Other processes and commands start without them; the doctor names what is missing."""
    monkeypatch.setenv("EMPTY", "")
    (tmp_path / "lines").write_text(f"{HIDDEN}\n{HIDDEN}\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    settings = _load(monkeypatch, **fields)
    with pytest.raises(SettingsError, match=re.escape(f"POSTHASTE_PROVIDERS.a.{named}")) as caught:
        settings.provider_headers()
    assert HIDDEN not in str(caught.value)
    warnings = [finding for finding in _providers(settings) if named in finding.detail]
    assert [finding.verdict for finding in warnings] == ["warning"] and HIDDEN not in str(warnings)


def test_a_worker_does_not_start_without_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PROVIDERS", '{"a": {"url": "http://h/", "auth": {"bearer": {"env": "ABSENT"}}}}')
    command = [sys.executable, "-m", "consumers", "messages"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    expected = "posthaste messages: POSTHASTE_PROVIDERS.a.auth.bearer: the environment variable ABSENT is not set"
    assert ran.stderr.startswith(expected)


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for secret in _sources(monkeypatch, tmp_path):
        settings = _load(monkeypatch, headers={"X-Key": secret}, auth={"bearer": secret})
        texts = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()} {list(_providers(settings))}"
        assert HIDDEN not in texts
