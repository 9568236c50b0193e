"""Words of posts, counted in the bytes of `COPY (SELECT user_id, context …) TO STDOUT` without decoding them.

The number of words is `len(text.split())` for every text that Postgres stores. Format:
https://www.postgresql.org/docs/current/sql-copy.html, "Text Format". Each row is `digits TAB text LF`. COPY writes
BS, FF, LF, CR, TAB and VT of a text as a backslash and a letter, and a backslash as two. So a raw TAB or LF ends a field.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

_TAB, _LF, _MINUS, _BACKSLASH = b"\t\n-\\"
_FIRST_SEPARATOR = 28  # FS, GS, RS and US are white space for Python
_ESCAPED_WHITE = np.zeros(256, np.bool_)
_ESCAPED_WHITE[np.frombuffer(b"ntrfv", np.uint8)] = True
# White space beyond ASCII, as UTF-8, by its first byte: characters of two bytes, then of three.
_WHITE = "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_BY_LEAD: dict[int, list[bytes]] = {}
for _character in _WHITE:
    _BY_LEAD.setdefault(_character.encode()[0], []).append(_character.encode()[1:])


class Counter:
    """A file that receives COPY's bytes, cut at any place, and passes (user ids, words) of whole rows to `receive`.

    Memory is bounded by the longest write, and by the longest post.
    """

    def __init__(self, receive: Callable[[Integers, Integers], object]):
        self._receive = receive
        self._incomplete: list[bytes] = []

    def write(self, data: "bytes | memoryview") -> int:
        """Count the rows that are complete; returns the length of `data`."""
        chunk = bytes(data)
        end = chunk.rfind(b"\n") + 1
        if end:
            self._receive(*count_rows(b"".join((*self._incomplete, chunk[:end]))))
            self._incomplete = []
        if end < len(chunk):
            self._incomplete.append(chunk[end:])
        return len(data)


def count_rows(rows: bytes) -> tuple[Integers, Integers]:
    """The user id and the number of words of each row. `rows` are whole rows, at least one."""
    buffer = np.frombuffer(rows, np.uint8)
    white = buffer <= 32
    tabs, ends = _delimiters(buffer, white)
    _mark_escaped(buffer, white)
    _mark_wide(buffer, white)
    return _user_ids(buffer, tabs, ends), _words_between(white, tabs, ends)


def _delimiters(buffer: Bytes, white: Flags) -> tuple[Integers, Integers]:
    """The places of the TAB and of the LF of each row. Control characters that are no white space are unmarked in `white`."""
    low = np.flatnonzero(buffer < _FIRST_SEPARATOR)
    values = buffer[low]
    is_delimiter = (values == _TAB) | (values == _LF)
    if not is_delimiter.all():
        white[low[~is_delimiter]] = False
        low = low[is_delimiter]
    return low[0::2], low[1::2]


def _mark_escaped(buffer: Bytes, white: Flags) -> None:
    """Mark both bytes of each escaped white space. The last backslash of a run of odd length escapes the byte after it."""
    at = np.flatnonzero(buffer == _BACKSLASH)
    if not len(at):
        return
    breaks = np.flatnonzero(np.diff(at) != 1)
    first, last = at[np.concatenate(([0], breaks + 1))], at[np.concatenate((breaks, [len(at) - 1]))]
    escaping = last[(last - first) % 2 == 0]
    escaping = escaping[_ESCAPED_WHITE[buffer[escaping + 1]]]
    white[escaping] = white[escaping + 1] = True


def _mark_wide(buffer: Bytes, white: Flags) -> None:
    """Mark each byte of the white space beyond ASCII."""
    if buffer.max() < 0x80:
        return
    for lead, tails in _BY_LEAD.items():
        at = np.flatnonzero(buffer == lead)
        if not len(at):
            continue
        second = buffer[at + 1]
        for tail in tails:
            found = at[second == tail[0]]
            if len(tail) == 2:
                found = found[buffer[found + 2] == tail[1]]
            for offset in range(len(tail) + 1):
                white[found + offset] = True


def _words_between(white: Flags, tabs: Integers, ends: Integers) -> Integers:
    """The words between each TAB and its LF. A word starts at a byte that is not white, after one that is.

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

    return starts_before(ends) - starts_before(tabs)


def _user_ids(buffer: Bytes, tabs: Integers, ends: Integers) -> Integers:
    """The decimal numbers before the TABs."""
    begins = np.concatenate(([0], ends[:-1] + 1))
    negative = buffer[begins] == _MINUS
    begins = begins + negative
    lengths = tabs - begins
    values = np.zeros(len(tabs), np.int64)
    for place in range(int(lengths.max())):
        has_digit = lengths > place
        digits = buffer[np.where(has_digit, tabs - 1 - place, begins)].astype(np.int64) - ord("0")
        values += np.where(has_digit, digits, 0) * 10**place
    return np.where(negative, -values, values)


def histogram(words: Integers) -> tuple[Integers, Integers]:
    """The distinct numbers of words, and the number of posts that have each."""
    lengths, posts = np.unique(words, return_counts=True)
    return lengths, posts.astype(np.int64)
