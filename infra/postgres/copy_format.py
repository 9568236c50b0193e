"""Posts as (user_id, context, created_at) in COPY's binary format.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EPOCH_MICROSECONDS = 946_684_800 * 10**6  # Postgres counts from 2000
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_NO_MORE_ROWS = b"\xff\xff"
# The bytes between two texts: the rest of a row, and the next row up to its text. Sizes are in bytes.
_BETWEEN = np.dtype([
    ("instant_size", ">i4"), ("instant", ">i8"),
    ("fields", ">i2"), ("user_size", ">i4"), ("user", ">i4"), ("text_size", ">i4"),
])  # fmt: skip
_REST_OF_ROW = 12


@dataclass(frozen=True, slots=True)
class Framing:
    """The data is `heads[0]`, text 0, `heads[1]`, text 1, … `tail`. `heads` is an array of bytes objects."""

    heads: NDArray[np.object_]
    tail: bytes


def frame_posts(user_ids: NDArray[np.integer], text_sizes: NDArray[np.integer], created_at: NDArray[np.integer]) -> Framing:
    """The framing of at least one post. `text_sizes` are in bytes of UTF-8, `created_at` in microseconds since 1970."""
    between = np.zeros(len(user_ids) + 1, _BETWEEN)
    between["instant_size"], between["fields"], between["user_size"] = 8, 3, 4
    between["instant"][1:] = created_at - _EPOCH_MICROSECONDS
    between["user"][:-1], between["text_size"][:-1] = user_ids, text_sizes
    pieces = np.empty(len(between), object)
    pieces[:] = between.view(f"V{_BETWEEN.itemsize}").tolist()
    pieces[0] = _SIGNATURE + pieces[0][_REST_OF_ROW:]
    return Framing(pieces[:-1], pieces[-1][:_REST_OF_ROW] + _NO_MORE_ROWS)
