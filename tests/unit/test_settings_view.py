"""The settings in force: each is shown once, and no secret is."""

from typing import Any

import pytest

from service.provider_settings import ProviderSettings
from service.settings import PREFIX, Settings
from service.settings_view import MASK, masked_url, settings_in_force

URLS: dict[str, Any] = {
    "database_url": "postgresql://u:s3cret@h/d?x=s3cret",
    "amqp_url": "amqp://h/",
    "redis_url": "redis://:s3cret@h/0",
}


def _values(**settings: Any) -> dict[str, str]:
    shown = settings_in_force(Settings(**{**URLS, **settings}))
    return {each.variable.removeprefix(PREFIX).lower(): each.value for section in shown.values() for each in section}


def test_each_setting_is_shown_once_with_its_description() -> None:
    shown = [each for section in settings_in_force(Settings(**URLS)).values() for each in section]
    assert sorted(each.variable for each in shown) == sorted(PREFIX + name.upper() for name in Settings.model_fields)
    assert all(each.description for each in shown)


def test_a_default_is_told_from_a_set_value() -> None:
    sections = settings_in_force(Settings(**URLS, lease_seconds=90))
    defaults = {each.variable: each.is_default for section in sections.values() for each in section}
    assert not defaults["POSTHASTE_LEASE_SECONDS"] and not defaults["POSTHASTE_DATABASE_URL"]
    assert defaults["POSTHASTE_LOST_LEASES"] and defaults["POSTHASTE_RETENTION_DAYS"]


def test_no_secret_is_shown() -> None:
    provider = ProviderSettings.model_validate({
        "url": "https://u:s3cret@h.example/s3cret?k=s3cret",
        "headers": {"X-Token": "s3cret", "X-Env": {"env": "TOKEN"}},
        "timeout_seconds": 3,
    })  # fmt: skip
    bearer = ProviderSettings.model_validate({"url": "https://h/", "auth": {"bearer": {"file": "/run/secrets/b"}}})
    values = _values(
        providers={"one": provider, "two": bearer},
        default_provider="one",
        api_key="s3cret",
        callback_secrets=["whsec_czNjcmV0czNjcmV0czNjcmV0czNjcmV0"],
        callback_url="https://h.example/s3cret",
    )
    text = "\n".join(values.values())
    assert "s3cret" not in text and "whsec" not in text
    for shown in (f"https://u:{MASK}@h.example/{MASK}?{MASK}", '"env": "TOKEN"', '"file": "/run/secrets/b"', "X-Token"):
        assert shown in values["providers"]
    assert values["database_url"] == f"postgresql://u:{MASK}@h/d?{MASK}" and values["redis_url"] == f"redis://:{MASK}@h/0"
    assert (values["api_key"], values["callback_secrets"]) == (MASK, MASK)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h", "http://h"),
        ("http://h/", "http://h/"),
        ("http://h:1/a", f"http://h:1/{MASK}"),
        ("http://u@h/", "http://u@h/"),
        ("http://u:p@w@[::1]:2/", f"http://u:{MASK}@[::1]:2/"),
        ("http://[::1", MASK),
    ],
)
def test_urls_are_masked(url: str, shown: str) -> None:
    assert masked_url(url, with_path=False) == shown
