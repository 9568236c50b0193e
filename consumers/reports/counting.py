"""Words of posts, counted in the bytes of `COPY (SELECT user_id, context …) TO STDOUT (FORMAT binary)` without decoding them.

The number of words is `len(text.split())` for every text that Postgres stores. Format:
https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format". A row is a head of 14 bytes and the text in UTF-8.
No text has a zero byte.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # without options
NO_MORE_ROWS = b"\xff\xff"
HEAD = struct.Struct(">hiii")  # 2 fields; 4 bytes of the user id; the user id; the size of the text
_FIELDS, _USER_BYTES = 2, 4
_HEAD = np.dtype([("fields", ">i2"), ("user_bytes", ">i4"), ("user", ">i4"), ("text_bytes", ">i4")])
_ANY_HEAD = np.dtype(f"V{HEAD.size}")
_BLANK_HEAD = np.void(b" " * HEAD.size)
_USER_BYTES_AT = 5  # the place of the 4 in a head

_FIRST_SEPARATOR = 28  # FS, GS, RS and US are white space for Python
_FIRST_WIDE = 0x80  # bytes of characters beyond ASCII
# White space beyond ASCII, as UTF-8, by its first byte: characters of two bytes, then of three.
_WHITE = "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_BY_LEAD: dict[int, list[bytes]] = {}
for _character in _WHITE:
    _BY_LEAD.setdefault(_character.encode()[0], []).append(_character.encode()[1:])

# glibc maps each large array anew, and unmaps it after use: the page faults take as long as the counting. Once a mapped block
# has been freed, smaller ones are reused; mallopt(3), M_MMAP_THRESHOLD.
_REUSED_BYTES = 16 << 20
np.empty(_REUSED_BYTES, np.uint8)


class UnexpectedFormat(Exception):
    """The bytes are not rows of an `integer` and a `text`, or they end too early."""


class Counter:
    """A file that receives COPY's bytes, cut at any place, and passes (user ids, words) of whole rows to `receive`.

    Memory is bounded by the longest write, and by the longest post. Its methods raise `UnexpectedFormat`.
    """

    def __init__(self, receive: Callable[[Integers, Integers], object]):
        self._receive = receive
        self._buffer = np.empty(0, np.uint8)
        self._size = 0  # bytes in the buffer
        self._needed = len(SIGNATURE)
        self._has_begun = False

    def write(self, data: "bytes | memoryview") -> int:
        """Count the rows that are complete; returns the length of `data`."""
        size = self._size + len(data)
        if size > len(self._buffer):
            grown = np.empty(max(size + size // 8, self._needed), np.uint8)  # the next rest may be longer
            grown[: self._size] = self._buffer[: self._size]
            self._buffer = grown
        self._buffer[self._size : size] = np.frombuffer(data, np.uint8)
        self._size = size
        if size >= self._needed:
            self._keep(self._count(self._buffer[:size]))
        return len(data)

    def finish(self) -> None:
        """Check that no row is missing."""
        if self._buffer[: self._size].tobytes() != NO_MORE_ROWS:
            raise UnexpectedFormat("COPY ended within a row")

    def _count(self, data: Bytes) -> Bytes:
        """Count the whole rows, and return the rest."""
        if not self._has_begun:
            if data[: len(SIGNATURE)].tobytes() != SIGNATURE:
                raise UnexpectedFormat("no signature of COPY's binary format")
            self._has_begun, data = True, data[len(SIGNATURE) :]
        rows = take_rows(data)
        if len(rows.users):
            self._receive(rows.users, rows.words())
        return data[len(rows.buffer) :]

    def _keep(self, rest: Bytes) -> None:
        self._buffer[: len(rest)] = rest
        self._size, self._needed = len(rest), HEAD.size
        if len(rest) >= HEAD.size:
            fields, user_bytes, _, text_bytes = HEAD.unpack(self._buffer[: HEAD.size].tobytes())
            if (fields, user_bytes) != (_FIELDS, _USER_BYTES) or text_bytes < 0:
                raise UnexpectedFormat(f"a row of {fields} fields, the first with {user_bytes} bytes")
            self._needed += text_bytes


@dataclass(frozen=True, slots=True)
class Rows:
    """Whole rows. They follow each other from the first byte of `buffer` to its last; row n ends at `ends[n]`.

    The heads in `buffer` are overwritten with blanks, so that no word is in them.
    """

    buffer: Bytes
    users: Integers
    ends: Integers

    def words(self) -> Integers:
        """The number of words of each text."""
        white = self.buffer <= ord(" ")
        if self.buffer.min() < _FIRST_SEPARATOR:
            white &= ~_is_control(self.buffer)
        if self.buffer.max() >= _FIRST_WIDE:
            _mark_wide(self.buffer, white)
        before = _words_before(white, self.ends)
        words = before.copy()
        words[1:] -= before[:-1]
        return words


def take_rows(buffer: Bytes) -> Rows:
    """Take the whole rows of a buffer that begins with a row; see `Rows`."""
    last = max(0, len(buffer) - HEAD.size + 1)  # a head may start before
    starts = _places(buffer[_USER_BYTES_AT : last + _USER_BYTES_AT] == _USER_BYTES)
    starts = starts[buffer[starts + 1] == _FIELDS]
    at_any_byte = np.ndarray(last, _ANY_HEAD, buffer, strides=(1,))
    heads = at_any_byte[starts].view(_HEAD)
    is_head = (heads["fields"] == _FIELDS) & (heads["user_bytes"] == _USER_BYTES) & (heads["text_bytes"] >= 0)
    if not is_head.all():
        starts, heads = starts[is_head], heads[is_head]
    ends = starts + HEAD.size + heads["text_bytes"]
    if len(starts) and (starts[0] != 0 or (starts[1:] != ends[:-1]).any()):
        real = _following(starts, ends)
        starts, heads, ends = starts[real], heads[real], ends[real]
    count = int(np.searchsorted(ends, len(buffer), "right"))
    at_any_byte[starts[:count]] = _BLANK_HEAD
    end = int(ends[count - 1]) if count else 0
    return Rows(buffer[:end], heads["user"][:count].astype(np.int64), ends[:count])


def _following(starts: Integers, ends: Integers) -> list[int]:
    """The indices of the rows that follow each other from 0. Others are within a head, such as that of user 2 with 4 bytes."""
    real, next_start = [], 0
    for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if start == next_start:
            real.append(index)
            next_start = end
    return real


def _is_control(buffer: Bytes) -> Flags:
    """Controls that are no white space."""
    return (buffer < ord("\t")) | ((buffer - np.uint8(14)) < np.uint8(_FIRST_SEPARATOR - 14))


def _mark_wide(buffer: Bytes, white: Flags) -> None:
    """Mark each byte of the white space beyond ASCII."""
    for lead, tails in _BY_LEAD.items():
        at = np.flatnonzero(buffer == lead)
        second, third = (buffer.take(at + offset, mode="clip") for offset in (1, 2))
        for tail in tails:
            is_found = second == tail[0]
            if len(tail) == 2:
                is_found &= third == tail[1]
            found = at[is_found]
            for offset in range(len(tail) + 1):
                white[found + offset] = True


def _words_before(white: Flags, places: Integers) -> Integers:
    """The number of words that start before each place. A word starts at a byte that is not white, after one that is.

    The first byte is white. The starts are counted by 64 bits, so the sum runs over an eighth of a byte for each byte.
    """
    bits = _bits(white)
    after = bits << np.uint64(1)
    after[1:] |= bits[:-1] >> np.uint64(63)
    starts = after & ~bits
    before = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(np.bitwise_count(starts), out=before[1:])
    block, bit = places >> 6, (places & 63).astype(np.uint64)
    partial = starts[block] & ((np.uint64(1) << bit) - np.uint64(1))
    return np.asarray(before[block] + np.bitwise_count(partial), np.int64)


def _places(flags: Flags) -> Integers:
    """The places of the flags that are set, ascending: `np.flatnonzero`, but faster where few of the flags are set."""
    bits = _bits(flags)
    block = np.flatnonzero(bits != 0)
    bits, found = bits[block], [np.empty(0, np.int64)]
    while len(block):
        lowest = bits & -bits
        found.append((block << 6) + np.bitwise_count(lowest - np.uint64(1)))
        bits ^= lowest
        is_left = bits != 0
        block, bits = block[is_left], bits[is_left]
    return np.sort(np.concatenate(found), kind="stable")


def _bits(flags: Flags) -> NDArray[np.uint64]:
    """64 flags a number, the first in its lowest bit. At least one flag more is not set."""
    packed = np.packbits(flags, bitorder="little")
    bits = np.zeros(len(packed) // 8 + 1, np.dtype("<u8"))
    bits.view(np.uint8)[: len(packed)] = packed
    return bits


def histogram(words: Integers) -> tuple[Integers, Integers]:
    """The distinct numbers of words, and the number of posts that have each."""
    lengths, posts = np.unique(words, return_counts=True)
    return lengths, posts.astype(np.int64)
