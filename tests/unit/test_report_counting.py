"""Words are counted in COPY's bytes as `str.split` counts them in the text."""

import struct
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumers.reports.counting import HEAD, NO_MORE_ROWS, SIGNATURE, Counter, UnexpectedFormat, histogram
from consumers.reports.sums import Sums

WHITE = [character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace()]
# Neighbours of white space in UTF-8 share its first bytes.
NEAR = ["\u0084", "\u0086", "\u009f", "\u00a1", "\u167f", "\u1681", "\u1fff", "\u200b", "\u2027", "\u202a", "\u202e", "\u2030"]
NEAR += ["\u205e", "\u2060", "\u2fff", "\u3001", "\u180e", "\ufeff", "\u4e00", "😀", "é"]
CONTROLS = [chr(code) for code in range(1, 33)] + ["\x7f"]
CHARACTERS = st.sampled_from([*WHITE, *NEAR, *CONTROLS, *"x019. a"])
TEXTS = st.text(CHARACTERS, max_size=30) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30
)
USERS = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([2, 4, 512, 0x20000, 0x40002])
POSTS = st.lists(st.tuples(USERS, TEXTS), max_size=12)
# Heads that have the first bytes of a head within them: 00 02 00 00 00 04.
LOOKALIKES = [
    (2, "a b "),
    (512, "a " * 600),
    (0x20000, "a " * 0x22000),
    (2, "four"),
    (2, "x  y"),
    (4, "after it"),
    (0x02000000, "\x04 a"),
]


def copied(posts: list[tuple[int, str]]) -> bytes:
    """The bytes of COPY for these posts. `tests/integration/test_report_runs.py` counts the bytes that Postgres writes."""
    rows = ((HEAD.pack(2, 4, user, len(text.encode())), text.encode()) for user, text in posts)
    return SIGNATURE + b"".join(piece for row in rows for piece in row) + NO_MORE_ROWS


def counted(data: bytes, size: int) -> list[tuple[int, int]]:
    rows: list[tuple[int, int]] = []
    counter = Counter(lambda users, words: rows.extend(zip(users.tolist(), words.tolist(), strict=True)))
    for at in range(0, len(data), size):
        assert counter.write(memoryview(data)[at : at + size]) == len(data[at : at + size])
    counter.finish()
    return rows


@settings(deadline=None)  # a busy machine is slow
@given(POSTS, st.integers(1, 200))
@example([(1, character + "a" + character) for character in WHITE], 1)
@example([(-(2**31), ""), (2**31 - 1, ""), (0, "a"), (-1, "\x04\x02 b")], 3)
@example(LOOKALIKES, 1)
@example(LOOKALIKES, 10**7)
def test_the_words_are_those_of_split_wherever_the_bytes_are_cut(posts: list[tuple[int, str]], size: int) -> None:
    assert counted(copied(posts), size) == [(user, len(text.split())) for user, text in posts]


@pytest.mark.parametrize("character", [*WHITE, *NEAR, *CONTROLS], ids=lambda character: f"U+{ord(character):04X}")
def test_every_white_space_and_its_neighbours(character: str) -> None:
    texts = [character, f"a{character}b", f"{character}a", f"a{character}", character * 3]
    expected = [(7, len(text.split())) for text in texts]
    for size in (1, 2, 3, 1000):
        assert counted(copied([(7, text) for text in texts]), size) == expected


@pytest.mark.parametrize("text", ["", " ", "a", "a b", "\x01", "\t", "\u3000", "é"])
def test_a_chunk_of_equal_texts_is_counted(text: str) -> None:
    """Rare bytes are looked for only where texts have some."""
    posts = [(user, text) for user in (0, 1, 4, 27, 0x80, 0xC2, 0xE1E2, 0x7FFFFFFF) for _ in range(9)]
    assert counted(copied(posts), 10**6) == [(user, len(text.split())) for user, text in posts]


@pytest.mark.parametrize("data", [
    pytest.param(b"", id="nothing"),
    pytest.param(SIGNATURE, id="no end"),
    pytest.param(copied([(1, "a b")])[:-2], id="no end after a row"),
    pytest.param(copied([(1, "a b")])[:-3], id="half a row"),
    pytest.param(b"1\tsome text of COPY's other format\n", id="text"),
    pytest.param(SIGNATURE + struct.pack(">hiqi", 2, 8, 1, 0) + NO_MORE_ROWS, id="bigint"),
    pytest.param(SIGNATURE + HEAD.pack(3, 4, 1, 0) + NO_MORE_ROWS, id="three fields"),
    pytest.param(SIGNATURE + HEAD.pack(2, 4, 1, -1) + NO_MORE_ROWS, id="null"),
    pytest.param(SIGNATURE + HEAD.pack(2, 4, 1, -1) + copied([(1, "a")])[len(SIGNATURE) :], id="null before a row"),
    pytest.param(copied([(1, "a")])[:-2] + HEAD.pack(2, 4, 1, -1) + NO_MORE_ROWS, id="null after a row"),
])  # fmt: skip
@pytest.mark.parametrize("size", [1, 1000])
def test_other_bytes_are_an_error(data: bytes, size: int) -> None:
    with pytest.raises(UnexpectedFormat):
        counted(data, size)


def test_python_has_no_further_white_space() -> None:
    assert [each for each in WHITE if unicodedata.category(each) not in ("Zs", "Zl", "Zp", "Cc")] == []
    assert len(WHITE) == 29


def test_a_post_that_is_longer_than_many_writes_is_counted_once() -> None:
    text = "word\u3000" * 50_000
    assert counted(copied([(5, text), (6, "x")]), 4096) == [(5, 50_000), (6, 1)]


def test_words_beyond_a_block_of_64_bytes_are_counted() -> None:
    posts = [(n, "a " * n) for n in range(200)]
    assert counted(copied(posts), 10**6) == [(n, n) for n in range(200)]


KEYS = st.integers(-5, 5) | st.sampled_from([-(2**31), 2**31 - 1, 49])
VALUES = st.integers(0, 2**40) | st.sampled_from([2**53, 2**53 + 1, 2**56])


@given(st.lists(st.tuples(KEYS, VALUES), max_size=50), st.integers(1, 10))
@example([(0, 2**53), (0, 1)], 10)
@example([(0, 2**52), (1, 5), (0, 2**52 + 1)], 10)
def test_sums_are_by_ascending_key(pairs: list[tuple[int, int]], size: int) -> None:
    sums, expected = Sums(), dict.fromkeys(sorted({key for key, _ in pairs}), 0)
    for key, value in pairs:
        expected[key] += value
    for at in range(0, len(pairs), size):
        keys, values = np.array(pairs[at : at + size], np.int64).T
        sums.add(keys, values)
    keys, values = sums.result()
    assert list(zip(keys.tolist(), values.tolist(), strict=True)) == list(expected.items())


def test_sums_of_many_pairs_are_compacted_on_the_way() -> None:
    sums, keys = Sums(), np.arange(1000, dtype=np.int64)
    for _ in range(1000):
        sums.add(keys, np.ones(1000, np.int64))
    assert sum(len(each) for each, _ in sums._pending) < 300_000
    assert sums.result()[1].tolist() == [1000] * 1000


def test_the_histogram_counts_posts_by_their_words() -> None:
    lengths, posts = histogram(np.array([3, 0, 3, 7], np.int64))
    assert (lengths.tolist(), posts.tolist()) == ([0, 3, 7], [1, 2, 1])
