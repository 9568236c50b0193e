"""The wire format: frozen, tolerant of unknown fields, strict about required ones."""

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.wire import Pointer, Undecodable, decode, encode
from tests.support.factories import new_id

ID = "0192d1a0-0000-7000-8000-000000000001"


@given(st.uuids(), st.integers(1, 2**31 - 1))
def test_encoding_and_decoding_are_inverse(id_: UUID, version: int) -> None:
    assert decode(encode(Pointer(id_, version))) == Pointer(id_, version)


def test_the_bytes_are_frozen() -> None:
    pointer = decode(b'{"v":1,"id":"%s","version":3}' % ID.encode())
    assert encode(pointer) == b'{"v":1,"id":"0192d1a0-0000-7000-8000-000000000001","version":3}'


def test_fields_of_a_newer_release_are_ignored() -> None:
    id_ = new_id()
    assert decode(json.dumps({"v": 1, "id": str(id_), "version": 2, "shard": 9}).encode()) == Pointer(id_, 2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"v":2,"id":"%s","version":1}' % ID.encode(),
        b'{"v":true,"id":"%s","version":1}' % ID.encode(),
        b'{"v":1,"version":1}',
        b'{"v":1,"id":"%s"}' % ID.encode(),
        b'{"v":1,"id":"%s","version":0}' % ID.encode(),
        b'{"v":1,"id":"%s","version":"1"}' % ID.encode(),
        b'{"v":1,"id":"%s","version":true}' % ID.encode(),
        b'{"v":1,"id":"%s","version":99999999999}' % ID.encode(),
        b'{"v":1,"id":"%s","version":1}' % ID.upper().encode(),
        b'{"v":1,"id":"nonsense","version":1}',
        b'{"v":1,"id":7,"version":1}',
    ],
)
def test_undecodable_bytes_are_rejected(body: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(body)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(body: bytes) -> None:
    try:
        decode(body)
    except Undecodable:
        return
    assert json.loads(body)["v"] == 1
