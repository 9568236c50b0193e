"""The formats of a report's result: JSON, CSV (RFC 4180), Parquet, and the stream format of Arrow IPC.

A writer gets rows of two integers in batches, so its memory does not depend on their number. pyarrow is imported by the first
writer that needs it: it costs a process tens of megabytes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, Protocol

import orjson

FormatName = Literal["json", "csv", "parquet", "arrow"]
Pairs = Sequence[tuple[int, int]]

GROUP_ROWS = 65_536  # of a row group of Parquet


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its media type as `Accept` names it, and the header Content-Type; `is_paged`: it has pages."""

    name: FormatName
    media_type: str
    content_type: str
    extension: str
    is_paged: bool

    @property
    def writer_version(self) -> str:
        """Changes whenever the same rows may become other bytes."""
        return "1" if self.is_paged else f"1-{_pyarrow_version()}"


@cache
def _pyarrow_version() -> str:
    """The installed version, which is read without an import of the package."""
    return version("pyarrow")


_ARROW = "application/vnd.apache.arrow.stream"
_PARQUET = "application/vnd.apache.parquet"
JSON = Format("json", "application/json", "application/json", "json", is_paged=True)
CSV = Format("csv", "text/csv", "text/csv; charset=utf-8; header=present", "csv", is_paged=True)
PARQUET = Format("parquet", _PARQUET, _PARQUET, "parquet", is_paged=False)
ARROW = Format("arrow", _ARROW, _ARROW, "arrows", is_paged=False)
FORMATS: Mapping[FormatName, Format] = {each.name: each for each in (JSON, CSV, PARQUET, ARROW)}
BY_MEDIA_TYPE: Mapping[str, Format] = {each.media_type: each for each in FORMATS.values()}


@dataclass(frozen=True, slots=True)
class Table:
    """The content of a file: the names of both columns, and facts beside the rows.

    `members`: further members of the JSON object. `metadata`: of the schema of Parquet and Arrow.
    """

    columns: tuple[str, str]
    members: Mapping[str, Any]
    metadata: Mapping[str, str]


class Sink(Protocol):
    """The part of a binary file that writers use."""

    def write(self, data: bytes, /) -> int: ...


class Writer(Protocol):
    """Writes rows to its sink. `finish` writes the end; without it the file is incomplete."""

    def write(self, rows: Pairs) -> None: ...
    def finish(self) -> None: ...


def create_writer(format_: Format, table: Table, sink: Sink) -> Writer:
    """A writer of this format. It writes the beginning at once."""
    return _WRITERS[format_.name](table, sink)


def csv_rows(rows: Pairs) -> bytes:
    """Lines of CSV."""
    return "".join([f"{first},{second}\r\n" for first, second in rows]).encode()


def json_rows(columns: tuple[str, str], rows: Pairs) -> list[dict[str, int]]:
    """The objects of JSON."""
    one, two = columns
    return [{one: first, two: second} for first, second in rows]


class _JsonWriter:
    def __init__(self, table: Table, sink: Sink):
        self._table = table
        self._sink = sink
        self._separator = b""
        sink.write(b'{"data":[')

    def write(self, rows: Pairs) -> None:
        if rows:
            self._sink.write(self._separator + orjson.dumps(json_rows(self._table.columns, rows))[1:-1])
            self._separator = b","

    def finish(self) -> None:
        members = orjson.dumps(dict(self._table.members))[1:]  # its own brace closes the object
        self._sink.write(b"]" + (b"," if self._table.members else b"") + members)


class _CsvWriter:
    def __init__(self, table: Table, sink: Sink):
        self._sink = sink
        sink.write(csv_header(table.columns))

    def write(self, rows: Pairs) -> None:
        self._sink.write(csv_rows(rows))

    def finish(self) -> None:
        pass


def csv_header(columns: tuple[str, str]) -> bytes:
    return f"{','.join(columns)}\r\n".encode()


class _ArrowWriter:
    """A record batch for each batch of rows."""

    def __init__(self, table: Table, sink: Sink):
        import pyarrow as pa

        self._schema = _schema(table)
        self._file = pa.PythonFile(sink, mode="w")
        self._stream = pa.ipc.new_stream(self._file, self._schema)

    def write(self, rows: Pairs) -> None:
        if rows:
            self._stream.write_batch(_record_batch(self._schema, rows))

    def finish(self) -> None:
        self._stream.close()
        self._file.flush()


class _ParquetWriter:
    """Row groups of `GROUP_ROWS` rows, whose batches are kept until their group is complete."""

    def __init__(self, table: Table, sink: Sink):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = _schema(table)
        self._file = pa.PythonFile(sink, mode="w")
        self._parquet = pq.ParquetWriter(self._file, self._schema, use_dictionary=False)
        self._batches: list[Any] = []
        self._rows = 0

    def write(self, rows: Pairs) -> None:
        self._batches.append(_record_batch(self._schema, rows))
        self._rows += len(rows)
        if self._rows >= GROUP_ROWS:
            self._write_group()

    def finish(self) -> None:
        if self._rows:
            self._write_group()
        self._parquet.close()
        self._file.flush()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._parquet.write_table(pa.Table.from_batches(self._batches), row_group_size=self._rows)
        self._batches, self._rows = [], 0


def _schema(table: Table) -> Any:
    import pyarrow as pa

    fields = [pa.field(name, pa.int64() if name != "user_id" else pa.int32(), nullable=False) for name in table.columns]
    return pa.schema(fields, metadata=dict(table.metadata))


def _record_batch(schema: Any, rows: Pairs) -> Any:
    import pyarrow as pa

    columns = zip(*rows, strict=True) if rows else ((), ())
    return pa.record_batch([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


_WRITERS: Mapping[FormatName, Callable[[Table, Sink], Writer]] = {
    "json": _JsonWriter,
    "csv": _CsvWriter,
    "parquet": _ParquetWriter,
    "arrow": _ArrowWriter,
}
