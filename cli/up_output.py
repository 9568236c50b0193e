"""Terminal output of `posthaste up`: log lines that need attention, and one live line of counters below them."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import structlog
from rich.console import Console
from rich.live import Live
from rich.text import Text

# supervisord's own lines: about a process that ended by itself, and about an orderly stop.
_EXIT = re.compile(rb" WARN exited: (\S+) \((?:terminated by (\w+)|exit status (-?\d+))")
_STOP = re.compile(rb" WARN (?:received SIG|stopped: |killing )")
SERVICES = ("postgres", "rabbitmq", "redis")
_DEAD_LETTERS = ("job.failed", "job.unknown")
# Shown although they are no warnings.
_SHOWN = {"provider.gate", "dead_letters.requeued", "dead_letters.discarded", *_DEAD_LETTERS}
FAILURES_PER_SECOND = 5  # further ones are only counted


class Attention:
    """Decides which lines a quiet terminal shows."""

    def __init__(self) -> None:
        self._down: set[str] = set()
        self._failures = 0
        self._second = 0

    def needs(self, event: dict[str, Any]) -> bool:
        """Whether to show a line. The parts' own lines about a service that is down (`relay.down`) repeat it."""
        action, level = event["action"], event.get("level")
        subject, _, state = action.rpartition(".")
        if state == "down":
            self._down.add(subject)
            return subject in SERVICES
        if state == "up":
            return subject in SERVICES and subject in self._down
        if action in _DEAD_LETTERS:
            return not self._is_flood()
        return action in _SHOWN or (level in ("warning", "error", "critical") and state not in ("waiting", "open"))

    def _is_flood(self) -> bool:
        second = int(time.monotonic())
        self._failures = self._failures + 1 if second == self._second else 1
        self._second = second
        return self._failures > FAILURES_PER_SECOND


class Counters:
    """Messages and reports of this run by what happened to them, and the providers that are not served now."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._gates: dict[str, str] = {}

    def add(self, event: dict[str, Any]) -> None:
        if str(event.get("queue", "")).startswith("callbacks"):
            return
        match event:
            case {"action": "jobs.queued", "jobs": int() as jobs}:
                self._counts["accepted"] += jobs
            case {"action": "job.queued", "retry_in": float()}:
                self._counts["deferred"] += 1
            case {"action": "job.sent" | "job.completed" | "job.retrying" | "job.failed" | "job.unknown" as action}:
                self._counts[action.removeprefix("job.")] += 1
            case {"action": "provider.gate", "provider": provider, "state": state}:
                self._gates[provider] = "paused" if event.get("paused") else state

    def __str__(self) -> str:
        counts = self._counts
        texts = [f"accepted {counts['accepted']:,}", f"sent {counts['sent']:,}", f"retries {counts['retrying']:,}"]
        texts.append(f"failed {counts['failed'] + counts['unknown']:,}")
        texts += [f"deferred {counts['deferred']:,}"] if counts["deferred"] else []
        texts += [f"reports {counts['completed']:,}"] if counts["completed"] else []
        for name, state in sorted(self._gates.items()):
            if state != "closed":
                texts.append(f"provider {name} " + ("paused" if state == "paused" else f"does not answer (breaker {state})"))
        return "  ".join(texts)


def plain(line: bytes) -> str:
    """A line that is no log line of ours, without the line end. supervisord's lines about an orderly stop become empty."""
    if match := _EXIT.search(line):
        name, signal_name, status = (group and group.decode() for group in match.groups())
        return f"{name} exited ({signal_name or f'status {status}'}), restarted"
    return "" if _STOP.search(line) else line.decode(errors="replace").rstrip()


class PlainOutput:
    """Writes every line as it is, for pipes and files."""

    def run(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if text := plain(line):
                print(text, flush=True)


class LiveOutput:
    """Renders JSON log lines with their process, and the counters. `all_lines`: quiet lines, too."""

    def __init__(self, console: Console, *, all_lines: bool):
        self._console = console
        self._all_lines = all_lines
        self._counters = Counters()
        self._render = structlog.dev.ConsoleRenderer(colors=True, pad_event_to=0, pad_level=False, event_key="action")
        self._attention = Attention()

    def run(self, lines: Iterable[bytes]) -> None:
        with Live(console=self._console, get_renderable=self._footer, refresh_per_second=4, transient=True) as live:
            for text in self._texts(lines):
                live.console.print(text, soft_wrap=True)

    def _footer(self) -> Text:
        return Text(str(self._counters), style="bold", no_wrap=True, overflow="ellipsis")

    def _texts(self, lines: Iterable[bytes]) -> Iterator[Text]:
        for line in lines:
            event = _parsed(line)
            if event is None:
                if text := plain(line):
                    yield Text(text, style="bold")
                continue
            self._counters.add(event)
            if self._attention.needs(event) or self._all_lines:
                yield self._rendered(event)

    def _rendered(self, event: dict[str, Any]) -> Text:
        clock = str(event.pop("timestamp", ""))[11:19]
        text = Text.assemble((f"{clock} ", "dim"), (f"{event.pop('process', ''):<9} ", "cyan"))
        return text.append_text(Text.from_ansi(str(self._render(None, "", event))))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A JSON log line; None: another line, such as a traceback."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("action"), str) else None
