"""Answers with the result of a report, in every format."""

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.stack import Stack

TYPES = {
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
Answer = tuple[int, bytes, Any]


async def get_result(stack: Stack, path: str, method: str = "GET", **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with stack.session.request(method, stack.base + path, headers=sent) as response:
        return response.status, await response.read(), response.headers.copy()


def rows_of(form: str, body: bytes) -> list[tuple[int, ...]]:
    """The rows of a whole result."""
    if form == "csv":
        return [tuple(map(int, row)) for row in list(csv.reader(io.StringIO(body.decode())))[1:]]
    if form == "json":
        return [tuple(row.values()) for row in json.loads(body)["data"]]
    table = pq.read_table(io.BytesIO(body)) if form == "parquet" else pa.ipc.open_stream(body).read_all()
    return [tuple(row.values()) for row in table.to_pylist()]
