"""Output of `posthaste posts`: the note of a long count, and the rate in the bar."""

import threading

import pytest
from rich.console import Console
from rich.progress import Progress

from cli import posts
from cli.terminal import problems


def test_a_long_count_says_why_it_is_silent_and_a_short_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    printed = threading.Event()

    def say(text: str, to: Console) -> None:
        assert to is problems
        said.append(text)
        printed.set()

    monkeypatch.setattr(posts, "say", say)
    with posts._note("short"):
        pass
    monkeypatch.setattr(posts, "NOTE_SECONDS", 0.01)
    with posts._note("long"):
        assert printed.wait(60)
    assert said == ["long"]


def test_the_bar_has_the_rate() -> None:
    now = iter(range(0, 1000, 2))
    progress = Progress(posts.RateColumn(), get_time=lambda: float(next(now)))
    progress.add_task("", total=10_000)
    (task,) = progress.tasks
    assert str(posts.RateColumn().render(task)) == "0/s"
    for _ in range(3):
        progress.advance(task.id, 3_000)
    assert str(posts.RateColumn().render(task)) == "1,500/s"
