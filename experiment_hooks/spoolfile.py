"""The format of a spool file: frames of bytes, each checked, one after another.

Pure: bytes in, values out. A file is written by appending frames and may end anywhere,
since its writer may be killed at any moment. A frame that is damaged costs itself: what
follows is found again by the mark that each frame begins with.

    frame   = mark (4 bytes) kind (1) length (4) crc (4) payload, little-endian
    header  = a msgpack map: version, the endpoint, the source's hello (encoded)
    record  = sequence number (8 bytes), then the record as it travels
    sample  = a sample's head, without its moment

The crc is CRC-32 over kind and payload. Each file begins with a header, so each can be
delivered without the others.
"""

import struct
import zlib
from dataclasses import dataclass, field
from typing import Iterable, Iterator, List, Optional, Tuple

import msgspec

from experiment_hooks import wire

VERSION = 1
MARK = b"\xefEs\n"
HEADER, RECORD, SAMPLE = b"H", b"R", b"S"
_FRAME = struct.Struct("<4sc2I")
_SEQ = struct.Struct("<Q")


class Header(msgspec.Struct, frozen=True):
    """Whose records these are. ``hello`` is the source's encoded ``wire.Hello``."""

    version: int
    endpoint: str
    hello: bytes


@dataclass
class Contents:
    """What could be read of a file.

    Attributes:
        hello: the source's own, as it was when it wrote; made from its first record
            where the header is damaged, None where nothing can be read.
        records: sequence number and bytes, in the order they were written.
        sample: the head of the newest sample in it, or empty.
        damaged: bytes that could not be used.
        newer: a version that this one cannot read wrote it.
    """

    hello: Optional[wire.Hello] = None
    records: List[Tuple[int, bytes]] = field(default_factory=list)
    sample: bytes = b""
    damaged: int = 0
    newer: bool = False


def header(endpoint: str, hello: wire.Hello) -> bytes:
    """The frame that a file begins with."""
    known = Header(VERSION, endpoint, wire.encode(hello))
    return _frame(HEADER, msgspec.msgpack.encode(known))


def records(found: Iterable[Tuple[int, bytes]]) -> bytes:
    """Records as frames."""
    return b"".join(_frame(RECORD, _SEQ.pack(seq) + data) for seq, data in found)


def sample(head: bytes) -> bytes:
    """A sample as a frame."""
    return _frame(SAMPLE, head)


def read(data: bytes) -> Contents:
    """What is in a file of these bytes; never raises for what they are."""
    found = Contents()
    used = 0
    for kind, payload in _frames(data):
        used += _FRAME.size + len(payload)
        if kind == RECORD and len(payload) > _SEQ.size:
            (seq,) = _SEQ.unpack_from(payload)
            found.records.append((seq, payload[_SEQ.size :]))
        elif kind == SAMPLE:
            found.sample = payload
        elif kind == HEADER and found.hello is None:
            _take_header(found, payload)
    found.damaged = len(data) - used
    if found.hello is None and found.records:
        found.hello = _hello_of(found.records[0][1])
    return found


def _frame(kind: bytes, payload: bytes) -> bytes:
    crc = zlib.crc32(payload, zlib.crc32(kind))
    return _FRAME.pack(MARK, kind, len(payload), crc) + payload


def _frames(data: bytes) -> Iterator[Tuple[bytes, bytes]]:
    at = data.find(MARK)
    while 0 <= at <= len(data) - _FRAME.size:
        _, kind, length, crc = _FRAME.unpack_from(data, at)
        start = at + _FRAME.size
        payload = data[start : start + length]
        whole = length <= wire.MAX_HEAD_BYTES and len(payload) == length
        if whole and zlib.crc32(payload, zlib.crc32(kind)) == crc:
            yield kind, payload
            at = start + length
            if data[at : at + len(MARK)] == MARK:
                continue
        else:
            at += 1
        at = data.find(MARK, at)


def _take_header(found: Contents, payload: bytes) -> None:
    try:
        known = msgspec.msgpack.decode(payload, type=Header)
        hello = wire.decode_from_source(known.hello)
    except (msgspec.DecodeError, wire.WireError, TypeError, UnicodeDecodeError):
        return
    found.newer = known.version > VERSION
    if isinstance(hello, wire.Hello):
        found.hello = hello


def _hello_of(data: bytes) -> Optional[wire.Hello]:
    """Who a record is of: enough to deliver it."""
    try:
        record = wire.decode_record(data)
    except wire.WireError:
        return None
    return wire.Hello(
        protocol=wire.PROTOCOL,
        source=record.source,
        run=record.run,
        sent=record.time,
        role="shared",
    )
