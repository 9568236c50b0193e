"""Structured logs: one line an event, with a stable `action` name and the job's id. Bodies and destinations are not logged."""

import logging
import os
import sys
from enum import StrEnum

import structlog

from infra.log_output import LogOutput


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
    handler = LogOutput(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=output))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # It logs every failed attempt to connect as an error; the connection logs the first one.
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.error").addFilter(_DuplicateErrors())
    for library in ("aio_pika", "aiormq", "sqlalchemy", "uvicorn.error", "uvicorn.access", "alembic"):
        logging.getLogger(library).setLevel(max(root.level, logging.WARNING))


class _DuplicateErrors(logging.Filter):
    """Drops uvicorn's log of an exception in a request. The API logs the exception with the request's id."""

    def filter(self, record: logging.LogRecord) -> bool:
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
