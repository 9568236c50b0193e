"""Questions and formats of the commands."""

import io
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
import typer

from cli.dead_letter_access import format_age, format_value
from cli.terminal import confirm


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "confirms"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_question_is_answered_at_a_terminal(answer: str, confirms: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Terminal(answer))
    if confirms:
        confirm("Delete 3?")
    else:
        with pytest.raises(typer.Abort):
            confirm("Delete 3?")


def test_without_a_terminal_a_question_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(typer.Exit) as refused:
        confirm("Delete 3?")
    assert refused.value.exit_code == 2 and "--yes" in capsys.readouterr().err


def test_a_table_does_not_wrap_in_a_pipe() -> None:
    code = "from cli.terminal import console; from rich.table import Table; t = Table('a', 'b')\n"
    code += "t.add_row('x' * 100, 'y' * 100); console.print(t)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"│ {'x' * 100} │ {'y' * 100} │" in output


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ([], "-"),
        (["welcome", "vip"], "welcome, vip"),
        (True, "yes"),
        (0, "0"),
        (datetime(2026, 11, 29, 15, 4, 5, tzinfo=timezone(timedelta(hours=1))), "2026-11-29 14:04:05Z"),
        (datetime(2026, 11, 29, 15, 4, 5, 999, tzinfo=UTC), "2026-11-29 15:04:05Z"),
    ],
)
def test_values_are_formatted_for_readers(value: object, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (90_000, "1d")]
)
def test_an_age_has_one_unit(seconds: float, text: str) -> None:
    assert format_age(seconds) == text
