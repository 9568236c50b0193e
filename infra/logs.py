"""Structured logs: one line an event, with a stable `action` name and the job's id. Bodies and destinations are not logged."""

import logging
import logging.handlers
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import TextIO

import structlog

log = structlog.get_logger()


def configure(level: str, *, json: bool) -> None:
    """Send structlog and the standard library's loggers to standard error, as text or as JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_process,
        _plain,
    ]
    output: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if json:
        output += [structlog.processors.EventRenamer("action"), structlog.processors.format_exc_info]
        output.append(structlog.processors.JSONRenderer())
    else:
        # The default formatter takes seconds and prints local variables, bodies and destinations among them.
        plain = structlog.dev.plain_traceback
        output.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = _LogOutput(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=output))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # It logs every failed attempt to connect as an error; the connection logs the first one.
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.error").addFilter(_is_not_duplicate)
    for library in ("aio_pika", "aiormq", "sqlalchemy", "uvicorn.error", "uvicorn.access", "alembic"):
        logging.getLogger(library).setLevel(max(root.level, logging.WARNING))


def _is_not_duplicate(record: logging.LogRecord) -> bool:
    """Whether uvicorn's record is no exception of a request. The API logs the exception with the request's id."""
    return not record.getMessage().startswith("Exception in ASGI application")


def _with_process(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Name the process among those of `posthaste up`, whose lines share one terminal. supervisord sets the variable."""
    if process := os.environ.get("SUPERVISOR_PROCESS_NAME"):
        event["process"] = process
    return event


def _plain(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Drop fields without a value, and turn enums and lists of them into text."""
    return {key: _text(value) for key, value in event.items() if value is not None}


def _text(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple | set | frozenset) else value


class _LogOutput(logging.handlers.QueueHandler):
    """Formats and queues each line. A thread of its own writes them, so that a stalled pipe never blocks an event loop.

    Lines beyond the capacity are dropped; `log.dropped` has their number.
    """

    queue: "queue.Queue[str]"

    def __init__(self, stream: TextIO):
        super().__init__(queue.Queue(10_000))
        self._stream = stream
        self._dropped = 0
        threading.Thread(target=self._write, name="log output", daemon=True).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(f"{record.msg}\n")
        except queue.Full:
            self._dropped += 1

    def flush(self, seconds: float = 2.0) -> None:
        """Wait at most `seconds` until every queued line is written."""
        deadline = time.monotonic() + seconds
        with self.queue.all_tasks_done:
            while self.queue.unfinished_tasks and (seconds_left := deadline - time.monotonic()) > 0:
                self.queue.all_tasks_done.wait(seconds_left)

    def _write(self) -> None:
        while True:
            line = self.queue.get()
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):  # the stream is closed, so nothing can be logged
                continue
            finally:
                self.queue.task_done()
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
