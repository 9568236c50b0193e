"""The screen of `posthaste top`."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from cli.top_screen import SHOWN, chart, count, screen, seconds
from service.figures import COUNT_LIMIT, DeadLetterFigures, Figures, LedgerFigures, ProcessFigures, QueueFigures, Rates

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def shown(figures: Figures) -> str:
    output = io.StringIO()
    Console(file=output, width=100).print(screen(figures))
    return output.getvalue()


def ledger(queues: int = 1) -> LedgerFigures:
    waiting = [QueueFigures(f"messages.p{number}.normal", COUNT_LIMIT - number, 61.0) for number in range(queues)]
    letters = [DeadLetterFigures("message", "sandbox", "http_400", 7)]
    return LedgerFigures(NOON, waiting, letters, 12, 34, 5.5, {"sandbox": NOON})


def rates(accepted: float) -> Rates:
    return Rates(NOON, accepted, 2.0, 0.5, 0.25, 0.123, 4.5)


def test_the_screen_shows_every_figure() -> None:
    process = ProcessFigures(
        "x", "worker", "host-1", 42, NOON - timedelta(hours=3), NOON, 8, {"sandbox": "open", "b": "closed"}
    )
    text = shown(Figures(NOON, ledger(), [process], [rates(1.0), rates(1234.5)]))
    for part in (
        "1,234.5", "p50 123 ms, p99 4.5 s", "processing 12", "outbox due 34, the oldest for 5.5 s", "sandbox is paused since",
        "messages.p0.normal", "10,000+", "1 min", "http_400", "host-1", "3 h", "sandbox open",
    ):  # fmt: skip
        assert part in text, part
    assert "b closed" not in text and "down" not in text


def test_the_screen_names_what_is_down_and_what_is_unknown() -> None:
    text = shown(Figures(NOON, None, down={"redis": "no answer", "postgres": "refused"}))
    assert "redis is down: no answer" in text and "postgres is down: refused" in text
    assert "rates: unknown" in text and "queues: unknown" in text


def test_many_queues_fit_on_the_screen() -> None:
    text = shown(Figures(NOON, ledger(queues=SHOWN + 5), [], [rates(0.0)]))
    assert "and 5 more" in text and text.count("messages.p") == SHOWN


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.0, "0 ms"), (0.25, "250 ms"), (59.9, "59.9 s"), (90, "2 min"), (7200, "2 h")]
)
def test_durations_have_a_unit(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_charts_and_counts() -> None:
    assert chart([0, 1, 2, 4]) == " ▂▄█" and chart([0, 0]) == "  " and chart([]) == ""
    assert (count(9_999), count(COUNT_LIMIT)) == ("9,999", "10,000+")
