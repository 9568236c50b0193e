"""Log output. A thread of its own writes the lines, so that a stalled pipe never blocks an event loop."""

import logging
import logging.handlers
import queue
import threading
import time
from typing import TextIO

import structlog

CAPACITY = 10_000  # lines
FLUSH_SECONDS = 2.0

log = structlog.get_logger()


class LogOutput(logging.handlers.QueueHandler):
    """Formats and queues each line. Lines beyond the capacity are dropped; `log.dropped` has their number."""

    queue: "queue.Queue[str]"

    def __init__(self, stream: TextIO, capacity: int = CAPACITY):
        super().__init__(queue.Queue(capacity))
        self._stream = stream
        self._dropped = 0
        threading.Thread(target=self._write, name="log output", daemon=True).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(f"{record.msg}\n")
        except queue.Full:
            self._dropped += 1

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
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
