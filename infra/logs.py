"""Structured logs: one line an event, with a stable `action` name and the job's id. Bodies and destinations are not logged."""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import TextIO

import orjson
import structlog
from opentelemetry import trace

CAPACITY = 10_000  # lines that wait
WRITE_SECONDS = 0.01
_LIBRARIES = "aio_pika", "aiormq", "sqlalchemy", "uvicorn.error", "uvicorn.access", "alembic", "opentelemetry", "urllib3"

log = structlog.get_logger()


def configure(level: str, *, json: bool, tracing: bool = False) -> None:
    """Send structlog and the standard library's loggers to standard error, as text or as JSON. `tracing`: with trace ids."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *_with_process(),
        *([_with_trace] if tracing else []),
        _plain,
    ]
    render: list[structlog.typing.Processor]
    if json:
        render = [structlog.processors.EventRenamer("action"), structlog.processors.format_exc_info]
        render.append(structlog.processors.JSONRenderer(serializer=_dumps))
    elif sys.stderr.isatty():
        # The default formatter takes seconds and prints local variables, bodies and destinations among them.
        render = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        render = [structlog.processors.format_exc_info, _as_line]
    handler = _LogOutput(sys.stderr)
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: handler,  # without a record of the standard library: a line costs a third
        cache_logger_on_first_use=True,
    )
    output = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=output))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # It logs every failed attempt to connect as an error; the connection logs the first one.
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.error").addFilter(_is_not_duplicate)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(max(root.level, logging.WARNING))


def _is_not_duplicate(record: logging.LogRecord) -> bool:
    """Whether uvicorn's record is no exception of a request. The API logs the exception with the request's id."""
    return not record.getMessage().startswith("Exception in ASGI application")


def _with_process() -> list[structlog.typing.Processor]:
    """Name the process among those of `posthaste up`, whose lines share one terminal. supervisord sets the variable."""
    process = os.environ.get("SUPERVISOR_PROCESS_NAME")
    return [lambda logger, name, event: {**event, "process": process}] if process else []


def _with_trace(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Name the current span and its trace."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"], event["span_id"] = trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)
    return event


def _plain(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Drop fields without a value, and turn enums and lists of them into text."""
    return {key: _text(value) for key, value in event.items() if value is not None}


def _text(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple | set | frozenset) else value


def _dumps(event: structlog.typing.EventDict, **_: object) -> str:
    return orjson.dumps(event, str).decode()


def _as_line(logger: object, name: str, event: structlog.typing.EventDict) -> str:
    """A line of text for files and pipes: instant, level, action, and the fields by name."""
    head = f"{event.pop('timestamp')} [{event.pop('level'):<8}] {event.pop('event'):<30}"
    trace = event.pop("exception", None)
    fields = " ".join(f"{key}={_quoted(value)}" for key, value in sorted(event.items()))
    return f"{head} {fields}" if trace is None else f"{head} {fields}\n{trace}"


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if (isinstance(value, str) and not text.isprintable()) or " " in text or not text else text


class _LogOutput(logging.Handler):
    """Queues each line. A thread of its own writes them, so that a stalled pipe never blocks an event loop.

    It is the handler of the standard library, and the logger of structlog. Lines beyond the capacity are dropped; `log.dropped`
    has their number.
    """

    def __init__(self, stream: TextIO):
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._arrived = threading.Event()
        self._is_writing = False
        self._unwritten = 0  # lines of the write in progress
        self._dropped = 0
        threading.Thread(target=self._write, name="log output", daemon=True).start()

    def put(self, line: str) -> None:
        if len(self._lines) + self._unwritten >= CAPACITY:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._arrived.is_set():
            self._arrived.set()

    debug = info = warning = error = critical = put

    def emit(self, record: logging.LogRecord) -> None:
        self.put(self.format(record))

    def flush(self, seconds: float = 2.0) -> None:
        """Wait at most `seconds` until every queued line is written."""
        deadline = time.monotonic() + seconds
        while (self._lines or self._is_writing) and time.monotonic() < deadline:
            time.sleep(WRITE_SECONDS / 2)

    def _write(self) -> None:
        while self._arrived.wait():
            self._is_writing = True  # before a line is taken: `flush` sees the line or this
            self._arrived.clear()
            time.sleep(WRITE_SECONDS)  # one write for the lines of some milliseconds
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            self._unwritten = len(lines)
            with suppress(OSError, ValueError):  # the stream is closed, so nothing can be logged
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            self._unwritten, self._is_writing = 0, False
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                log.warning("log.dropped", lines=dropped, reason="the reader of standard error stalled")


class OutageLog:
    """Logs `<subject>.down` after `after_seconds` of failures, and `<subject>.up` at the next success.

    `effect`: the consequence for users of the service. Each failure is also logged at debug level.
    """

    def __init__(
        self, subject: str, effect: str, *, after_seconds: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ):
        self._subject = subject
        self._effect = effect
        self._after_seconds = after_seconds
        self._monotonic = monotonic
        self._failing_since: float | None = None
        self._is_down = False

    def failed(self, error: BaseException) -> None:
        now = self._monotonic()
        reason = str(error) or type(error).__name__
        if self._failing_since is None:
            self._failing_since = now
        if not self._is_down and now - self._failing_since >= self._after_seconds:
            self._is_down = True
            log.warning(f"{self._subject}.down", reason=reason, effect=self._effect)
        else:
            log.debug(f"{self._subject}.failed", reason=reason)

    def succeeded(self) -> None:
        if self._is_down and self._failing_since is not None:
            log.info(f"{self._subject}.up", seconds=round(self._monotonic() - self._failing_since, 1))
        self._failing_since, self._is_down = None, False
