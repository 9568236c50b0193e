"""The body of a schedule: its name without one, and its callback."""

from typing import Any

import pytest

from api.requests import validated
from api.schedule_models import NAME, ScheduleIn

CRON = "0 6 * * *"


def _read(**fields: Any) -> ScheduleIn:
    return validated({"cron": CRON, **fields}, ScheduleIn)


@pytest.mark.parametrize(
    "equal",
    [
        {"cron": "0  6 * * * "},
        {"timezone": "UTC"},
        {"report": {}},
        {"report": {"order": "user_id", "limit": None}},
        {"name": None},
    ],
)
def test_equal_fields_make_an_equal_name(equal: dict[str, Any]) -> None:
    assert _read(**equal).stored_name() == _read().stored_name()


@pytest.mark.parametrize(
    "other",
    [
        {"cron": "0 7 * * *"},
        {"timezone": "Europe/Berlin"},
        {"report": {"limit": 5}},
        {"report": {"from": "2026-01-01T00:00:00Z"}},
        {"report": {"callback_url": None}},
        {"report": {"callback_url": "https://example.com/hooks"}},
    ],
)
def test_other_fields_make_another_name(other: dict[str, Any]) -> None:
    name = _read(**other).stored_name()
    assert NAME.fullmatch(name) and name != _read().stored_name()


def test_a_name_is_kept() -> None:
    assert _read(name="nightly").stored_name() == "nightly"


def test_only_a_report_without_the_field_gets_the_default_callback() -> None:
    assert _read().has_default_callback and _read(report={"limit": 5}).has_default_callback
    for url in (None, "https://example.com/hooks"):
        assert not _read(report={"callback_url": url}).has_default_callback
