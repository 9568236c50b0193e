"""Whole results in temporary files: written and hashed before the first byte of the answer, then streamed.

A temporary file has no name, so it vanishes with its process. `TMPDIR` names its folder.
"""

import asyncio
import base64
import errno
import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from werkzeug.http import parse_etags

from api.problems import Problem, unavailable
from api.result_formats import Format, Pairs, Table, Writer, create_writer

log = structlog.get_logger()

CHUNK_BYTES = 256 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ResultFile:
    """A temporary file, with the SHA-256 of its content. Its methods block: call them in a thread."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  `close` closes it
        self._hash = hashlib.sha256()
        self._size = 0

    # pyarrow requires these of a file.
    closed = False

    def write(self, data: bytes, /) -> int:
        self._hash.update(data)
        self._size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        self._file.flush()

    def rewind(self) -> None:
        """Complete the file, and go to its beginning."""
        self._file.flush()
        self._file.seek(0)

    def read(self) -> bytes:
        """The next bytes, at most `CHUNK_BYTES`; none at the end."""
        return self._file.read(CHUNK_BYTES)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written is lost anyway
            self._file.close()

    @property
    def size(self) -> int:
        return self._size

    @property
    def digest(self) -> bytes:
        return self._hash.digest()


class ResultWriter:
    """Writes a result in its format to a temporary file, in threads. Raises a 503 problem if it cannot be written."""

    def __init__(self, format_: Format, table: Table):
        self._format = format_
        self._table = table
        self._file: ResultFile | None = None
        self._writer: Writer | None = None

    async def write(self, rows: Pairs) -> None:
        await asyncio.to_thread(self._write, rows)

    async def finish(self) -> ResultFile:
        """The complete file, at its beginning."""
        await asyncio.to_thread(self._finish)
        assert self._file is not None
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, rows: Pairs) -> None:
        try:
            if self._writer is None:
                self._file = ResultFile()
                self._writer = create_writer(self._format, self._table, self._file)
            self._writer.write(rows)
        except OSError as error:
            raise _unwritable(error) from error

    def _finish(self) -> None:
        self._write(())
        assert self._file is not None and self._writer is not None
        try:
            self._writer.finish()
            self._file.rewind()
        except OSError as error:
            raise _unwritable(error) from error


class FileAnswer(Response):
    """Streams a temporary file, and closes it. HEAD gets the headers alone."""

    def __init__(self, file: ResultFile, headers: Mapping[str, str]):
        self.status_code = 200
        self.background = None
        self._file = file
        self.init_headers({**headers, "Content-Length": str(file.size), **digest_header(file.digest)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while scope["method"] != "HEAD" and (chunk := await asyncio.to_thread(self._file.read)):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._file.close()


def digest_header(digest: bytes) -> dict[str, str]:
    """The header of a SHA-256 (RFC 9530)."""
    return {"Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:"}


def has_current(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` names this entity tag (RFC 9110, section 13.1.2)."""
    known = ", ".join(request.headers.getlist("if-none-match"))
    return bool(known) and parse_etags(known).contains_weak(etag.strip('"'))


def _unwritable(error: OSError) -> Problem:
    log.error("result.not_written", reason=str(error))
    if error.errno in _FULL:
        return unavailable("The API's disk is full. The result was not written.", code="storage_full", retry_after=60)
    return unavailable("The API cannot write temporary files.", code="storage_full", retry_after=60)
