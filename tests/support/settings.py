"""Settings of one test: no variable of the machine, and the variables that the test names."""

from collections.abc import Mapping

import pytest

from service.settings import PREFIX, Settings

URLS = {"DATABASE_URL": "postgresql://h/db", "AMQP_URL": "amqp://h/", "REDIS_URL": "redis://h"}


def clear_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset every setting."""
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def set_settings(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, str]) -> None:
    """Set the required URLs and these settings, by name without the prefix."""
    for name, value in {**URLS, **values}.items():
        monkeypatch.setenv(PREFIX + name, value)
