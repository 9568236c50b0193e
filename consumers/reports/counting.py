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
_USER_BYTES_AT = 5  # the place of the 4 in a head

_FIRST_SEPARATOR = 28  # FS, GS, RS and US are white space for Python
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
        self._pieces: list[bytes] = []
        self._size = 0
        self._needed = len(SIGNATURE)
        self._has_begun = False

    def write(self, data: "bytes | memoryview") -> int:
        """Count the rows that are complete; returns the length of `data`."""
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size >= self._needed:
            self._keep(self._count(b"".join(self._pieces)))
        return len(data)

    def finish(self) -> None:
        """Check that no row is missing."""
        if b"".join(self._pieces) != NO_MORE_ROWS:
            raise UnexpectedFormat("COPY ended within a row")

    def _count(self, data: bytes) -> bytes:
        """Count the whole rows, and return the rest."""
        begin = 0
        if not self._has_begun:
            if not data.startswith(SIGNATURE):
                raise UnexpectedFormat("no signature of COPY's binary format")
            self._has_begun, begin = True, len(SIGNATURE)
        rows = find_rows(np.frombuffer(data, np.uint8, offset=begin))
        if len(rows.heads):
            self._receive(rows.users, rows.words())
        return data[begin + len(rows.buffer) :]

    def _keep(self, rest: bytes) -> None:
        self._pieces, self._size, self._needed = [rest], len(rest), HEAD.size
        if len(rest) >= HEAD.size:
            fields, user_bytes, _, text_bytes = HEAD.unpack_from(rest)
            if (fields, user_bytes) != (_FIELDS, _USER_BYTES) or text_bytes < 0:
                raise UnexpectedFormat(f"a row of {fields} fields, the first with {user_bytes} bytes")
            self._needed += text_bytes


@dataclass(frozen=True, slots=True)
class Rows:
    """Whole rows: they follow each other from the first byte of `buffer` to its last. Text n is at [`begins[n]`, `ends[n]`)."""

    buffer: Bytes
    heads: NDArray[np.void]
    begins: Integers
    ends: Integers

    @property
    def users(self) -> Integers:
        return self.heads["user"].astype(np.int64)

    def words(self) -> Integers:
        """The number of words of each text."""
        white = self.buffer <= ord(" ")
        if self._have_in_texts(_is_rare):
            if self._have_in_texts(_is_control):
                white &= ~_is_control(self.buffer)
            if self._have_in_texts(_is_wide):
                _mark_wide(self.buffer, white)
        white[self.begins - 1] = True  # a word may start with the text
        return _words_between(white, self.begins - 1, self.ends - 1)

    def _have_in_texts(self, kind: Callable[[Bytes], Flags]) -> bool:
        """Whether a text has a byte of this kind. The heads' own bytes are subtracted."""
        everywhere, in_heads = (np.count_nonzero(kind(each)) for each in (self.buffer, self.heads.view(np.uint8)))
        return bool(everywhere > in_heads)


def find_rows(buffer: Bytes) -> Rows:
    """The whole rows of a buffer that begins with a row."""
    last = max(0, len(buffer) - HEAD.size + 1)  # a head may start before
    starts = np.flatnonzero(buffer[_USER_BYTES_AT : last + _USER_BYTES_AT] == _USER_BYTES)
    starts = starts[buffer[starts + 1] == _FIELDS]
    heads = np.ndarray(last, _ANY_HEAD, buffer, strides=(1,))[starts].view(_HEAD)  # at any byte
    is_head = (heads["fields"] == _FIELDS) & (heads["user_bytes"] == _USER_BYTES) & (heads["text_bytes"] >= 0)
    if not is_head.all():
        starts, heads = starts[is_head], heads[is_head]
    begins = starts + HEAD.size
    ends = begins + heads["text_bytes"]
    if len(starts) and (starts[0] != 0 or (starts[1:] != ends[:-1]).any()):
        real = _following(starts, ends)
        heads, begins, ends = heads[real], begins[real], ends[real]
    count = int(np.searchsorted(ends, len(buffer), "right"))
    end = int(ends[count - 1]) if count else 0
    return Rows(buffer[:end], heads[:count], begins[:count], ends[:count])


def _following(starts: Integers, ends: Integers) -> list[int]:
    """The indices of the rows that follow each other from 0. Others are within a head, such as that of user 2 with 4 bytes."""
    real, next_start = [], 0
    for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if start == next_start:
            real.append(index)
            next_start = end
    return real


def _is_rare(buffer: Bytes) -> Flags:
    """`_is_control`, `_is_wide`, and TAB to CR, by one comparison of bytes that wrap around."""
    return (buffer + np.uint8(0x80)) < np.uint8(0x80 + _FIRST_SEPARATOR)


def _is_control(buffer: Bytes) -> Flags:
    """Controls that are no white space."""
    return (buffer < ord("\t")) | ((buffer - np.uint8(14)) < np.uint8(_FIRST_SEPARATOR - 14))


def _is_wide(buffer: Bytes) -> Flags:
    """Bytes of characters beyond ASCII."""
    return buffer >= np.uint8(0x80)


def _mark_wide(buffer: Bytes, white: Flags) -> None:
    """Mark each byte of the white space beyond ASCII. No character continues from a head into a text."""
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


def _words_between(white: Flags, begins: Integers, ends: Integers) -> Integers:
    """The words that start after each of `begins`, up to its end. A word starts at a byte that is not white, after one that is.

    The starts are counted by 64 bits, so the sum runs over an eighth of a byte for each byte.
    """
    bits = np.packbits(white[:-1] > white[1:], bitorder="little")  # bit n: a word starts at byte n + 1
    words = np.zeros(len(bits) // 8 + 1, "<u8")
    words.view(np.uint8)[: len(bits)] = bits
    before = np.zeros(len(words) + 1, np.int64)
    np.cumsum(np.bitwise_count(words), out=before[1:])

    def starts_before(places: Integers) -> Integers:
        block, bit = places >> 6, (places & 63).astype(np.uint64)
        partial = words[block] & ((np.uint64(1) << bit) - np.uint64(1))
        return np.asarray(before[block] + np.bitwise_count(partial), np.int64)

    return starts_before(ends) - starts_before(begins)


def histogram(words: Integers) -> tuple[Integers, Integers]:
    """The distinct numbers of words, and the number of posts that have each."""
    lengths, posts = np.unique(words, return_counts=True)
    return lengths, posts.astype(np.int64)
