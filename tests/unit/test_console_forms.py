"""Each form of the console that changes something has the token of its session."""

import re
from pathlib import Path

import pytest

from api.console import pages

TEMPLATES = sorted((Path(pages.__file__).parent / "templates").glob("*.html"))
_FORM = re.compile(r"<form\b.*?</form>", re.DOTALL)


def _without_token(text: str) -> list[str]:
    forms = [form for form in _FORM.findall(text) if 'method="post"' in form]
    return [form for form in forms if "ui.token(form_token)" not in form]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_each_form_that_changes_something_has_a_token(path: Path) -> None:
    assert _without_token(path.read_text("utf-8")) == []


def test_a_form_without_a_token_is_found() -> None:
    assert _without_token('<form method="post"><button>Requeue</button></form>') != []
    assert sum(len(_FORM.findall(path.read_text("utf-8"))) for path in TEMPLATES) > 15
