"""The form that starts a report: its fields as the API's request model, and the faults of each field."""

import re
from collections.abc import Mapping
from typing import Any

from api.models import ReportIn
from api.problems import Problem
from api.requests import validated

FIELDS = ("from", "to", "user_ids", "order", "limit", "histogram")
_MINUTES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_INSTANT = "must be an instant in UTC like 2026-11-22T04:00"


class NotValid(Exception):
    """The form has faults: a sentence by field."""

    def __init__(self, faults: dict[str, str]):
        super().__init__(", ".join(faults))
        self.faults = faults


def parse(form: Mapping[str, Any]) -> ReportIn:
    """The report of a form. Empty fields are left out. Raises `NotValid`."""
    values = typed_values(form)
    try:
        return validated({name: _value(name, text) for name, text in values.items() if text}, ReportIn)
    except Problem as problem:
        faults: dict[str, str] = {}
        for error in problem.errors:
            _, name, *rest = error.pointer.split("/")
            item = f"Number {int(rest[0]) + 1}: " if rest else ""
            wrong = error.detail if error.code == "empty_range" or name not in ("from", "to") else _INSTANT
            faults.setdefault(name, item + wrong)
        raise NotValid(faults) from problem


def typed_values(form: Mapping[str, Any]) -> dict[str, str]:
    """The fields as their viewer typed them."""
    return {name: str(form.get(name, "")).strip() for name in FIELDS}


def _value(name: str, text: str) -> object:
    """The JSON of a field. A text that has no such form stays a text, which the model rejects."""
    if name in ("from", "to"):
        return f"{text}:00Z" if _MINUTES.fullmatch(text) else f"{text}Z"
    if name == "user_ids":
        return [_integer(part) for part in re.split(r"[\s,;]+", text) if part]
    return _integer(text) if name == "limit" else text


def _integer(text: str) -> object:
    return int(text) if _INTEGER.fullmatch(text) else text
