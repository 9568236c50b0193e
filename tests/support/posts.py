"""Posts of COPY's binary format, read again."""

import struct
from collections.abc import Iterator

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
EPOCH = 946_684_800_000_000  # 2000, in microseconds since 1970


def read_binary(data: bytes) -> list[tuple[int, str, int]]:
    """User id, text and microseconds since 1970 of each post. Malformed data raises."""
    return list(_rows(data))


def _rows(data: bytes) -> Iterator[tuple[int, str, int]]:
    assert data.startswith(SIGNATURE)
    at = len(SIGNATURE)
    while (fields := struct.unpack_from(">h", data, at)[0]) != -1:
        user_size, user, text_size = struct.unpack_from(">iii", data, at + 2)
        assert (fields, user_size) == (3, 4)
        at += 14
        text = data[at : at + text_size].decode()
        at += text_size
        instant_size, instant = struct.unpack_from(">iq", data, at)
        assert instant_size == 8
        at += 12
        yield user, text, instant + EPOCH
    assert at + 2 == len(data)
