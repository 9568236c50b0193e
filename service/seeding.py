"""Fills the posts with random ones, by several processes."""

import json
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from threading import Event

from infra.postgres.errors import PostgresError
from infra.postgres.posts import Posts
from service.post_recipe import Recipe

_COMMAND = [sys.executable, "-m", "service.seeding_process"]
WRITTEN = "written"  # the answer of a process to a chunk
_POLL_SECONDS = 0.1  # of `stop`
_LAST_CHUNKS_SECONDS = 5.0


class SeedingStopped(Exception):
    """A process, Postgres or the caller stopped the seeding. The text says how many posts were written; these stay."""


def seed(
    url: str,
    recipe: Recipe,
    processes: int,
    on_written: Callable[[int], object] = lambda posts: None,
    stop: Event | None = None,
) -> int:
    """Append the recipe's posts, each chunk in a transaction of its own. Returns the number of processes.

    `on_written` gets the number of posts of each written chunk. `stop` ends the seeding after the chunks that are being
    written. TRUNCATE waits until the end.

    Raises:
        Unavailable, Busy: nothing was written. SeedingStopped: some posts were written.
    """
    posts, processes = Posts(url), min(processes, recipe.chunks)
    with posts.in_use():
        _Seeding(recipe, on_written, stop or Event()).run(url, processes)
    try:
        posts.analyze()
    except PostgresError as error:
        raise SeedingStopped(f"all {recipe.count} posts were written, and ANALYZE failed: {error}") from error
    return processes


class _WriterFailed(Exception):
    """A process has failed, or has died."""


class _Writer:
    """A process that writes one chunk at a time. Its process group is its own, so Ctrl-C reaches its parent only."""

    def __init__(self, url: str, recipe: Recipe):
        self._recipe = recipe
        self._posts = 0
        self._process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)
        assert self._process.stdin and self._process.stdout
        self._input, self.answers = self._process.stdin, self._process.stdout
        self._tell(json.dumps([url, asdict(recipe)]))

    def start(self, chunk: int) -> None:
        self._posts = self._recipe.posts_in(chunk)
        self._tell(str(chunk))

    def finish(self) -> int:
        """Read the answer to the chunk. Returns the number of its posts. Raises `_WriterFailed`."""
        answer = self.answers.readline().rstrip("\n")
        if answer != WRITTEN:
            raise _WriterFailed(f"process {self._process.pid} {answer or _describe(self._process.wait())}")
        posts, self._posts = self._posts, 0
        return posts

    def close(self) -> None:
        """End the process: by the end of its input if it waits, else at once."""
        if self._posts:
            self._process.kill()
        with self._process:
            pass

    def _tell(self, line: str) -> None:
        with suppress(BrokenPipeError):  # the process has ended; the end of its answers shows it
            self._input.write(f"{line}\n")
            self._input.flush()


class _Seeding:
    """Hands out the chunks, and counts the written posts. The selector has the processes that write."""

    def __init__(self, recipe: Recipe, on_written: Callable[[int], object], stop: Event):
        self._recipe, self._on_written, self._stop = recipe, on_written, stop
        self._chunks = iter(range(recipe.chunks))
        self._written = 0
        self._writing = selectors.DefaultSelector()

    def run(self, url: str, processes: int) -> None:
        """Write all chunks. Raises `SeedingStopped`."""
        with self._writing, ExitStack() as stack:
            for _ in range(processes):
                writer = stack.enter_context(closing(_Writer(url, self._recipe)))
                writer.start(next(self._chunks))
                self._writing.register(writer.answers, selectors.EVENT_READ, writer)
            try:
                while self._writing.get_map() and not self._stop.is_set():
                    self._receive(_POLL_SECONDS)
            except _WriterFailed as error:
                self._let_finish()
                raise self._stopped(str(error), "at least ") from error
            self._let_finish()
            if self._written < self._recipe.count:
                raise self._stopped("interrupted", "at least " if self._writing.get_map() else "")

    def _receive(self, timeout: float) -> None:
        """Wait for answers, and give each of these processes its next chunk, if there is one."""
        for key, _ in self._writing.select(timeout):
            writer: _Writer = key.data
            self._writing.unregister(key.fileobj)
            posts = writer.finish()
            self._written += posts
            self._on_written(posts)
            if (chunk := next(self._chunks, None)) is not None:
                writer.start(chunk)
                self._writing.register(writer.answers, selectors.EVENT_READ, writer)

    def _let_finish(self) -> None:
        """Wait for the chunks that are being written, so that their number is known."""
        self._chunks = iter(())
        deadline = time.monotonic() + _LAST_CHUNKS_SECONDS
        while self._writing.get_map() and (left := deadline - time.monotonic()) > 0:
            with suppress(_WriterFailed):
                self._receive(left)

    def _stopped(self, reason: str, at_least: str) -> SeedingStopped:
        return SeedingStopped(f"{reason}; {at_least}{self._written} of {self._recipe.count} posts were written")


def _describe(code: int) -> str:
    """The end of a process without an answer, from its return code."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
