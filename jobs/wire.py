"""The body of an AMQP message: `{"v": format, "id": job id, "version": job version}` and nothing else.

The names are frozen. Unknown fields are ignored, so a newer release may add fields. An incompatible format gets a new
number and new queue names, so two releases can run side by side.
"""

import json
import re
from dataclasses import dataclass
from uuid import UUID

FORMAT = 1
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MAX_BYTES = 4096
_MAX_VERSION = 2**31 - 1


class Undecodable(ValueError):
    """This release cannot decode the message."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """A job at one version: the whole content of an AMQP message."""

    id: UUID
    version: int


def encode(pointer: Pointer) -> bytes:
    return b'{"v":%d,"id":"%s","version":%d}' % (FORMAT, str(pointer.id).encode(), pointer.version)


def decode(body: bytes) -> Pointer:
    """Read a message's body. Raises Undecodable: no JSON object, another format, or a field missing or of the wrong type."""
    if len(body) > _MAX_BYTES:
        raise Undecodable(f"{len(body)} bytes where at most {_MAX_BYTES} are expected")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable("not JSON") from error
    if not isinstance(fields, dict):
        raise Undecodable("not a JSON object")
    if fields.get("v") != FORMAT or isinstance(fields["v"], bool):
        raise Undecodable(f"format {fields.get('v')!r} where {FORMAT} is expected")
    id_, version = fields.get("id"), fields.get("version")
    if not isinstance(id_, str) or not _UUID.fullmatch(id_):
        raise Undecodable("field id is not a canonical UUID")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= _MAX_VERSION:
        raise Undecodable("field version is not a positive integer")
    return Pointer(UUID(id_), version)
