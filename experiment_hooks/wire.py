"""The wire: every message between the experiment's hooks and the exporter.

Rules of this module:

- No I/O, no clock, no thread, no environment: values in, bytes out, and back.
- It is the only module that the exporter shares with the hooks.
- It holds on msgspec 0.18.6 with Python 3.8 and on today's; annotations are
  evaluated there, hence ``Optional[int]`` and ``Tuple[int, ...]``.
- Changing it: only add fields with defaults. Never reuse or retype one. A kind that
  the other side does not know is counted there, not fatal.

A ZeroMQ message is one *head* part (a msgpack map with its ``kind``), followed by
attachments: the encoded records of a :class:`Records`, the image bytes of a
:class:`Sample`. A record is encoded once; those bytes travel, lie in the spool and lie
in the journal.

    WireError
    ├── MalformedError     not msgpack, or wrong types, or too large: the sender's fault
    └── UnknownKindError   well formed, of a kind that a newer version added
"""

import hashlib
import struct
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Type, Union

import msgspec

PROTOCOL = 1
"""Version of the protocol. Peers that differ in it do not understand each other."""

MAX_HEAD_BYTES = 1024 * 1024
MAX_RECORD_BYTES = 512 * 1024
MAX_IMAGE_BYTES = 1024 * 1024
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_PARTS = 2048
CREDIT = 4
"""Samples that may be on their way and not yet acknowledged."""
MAX_COMMANDS, MAX_COMMAND_NAME = 32, 100
"""Names of commands that one source takes, and the characters of one."""

STEP_DURATION_BUCKETS = (
    1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3,
    1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0,
)  # fmt: skip
EPISODE_DURATION_BUCKETS = (
    0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0,
    3600.0, 10800.0, 21600.0, 43200.0, 86400.0,
)  # fmt: skip
EPISODE_STEPS_BUCKETS = (
    1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 1e4, 3e4, 1e5, 3e5, 1e6,
)  # fmt: skip


class WireError(Exception):
    """A message that cannot be used. ``reason`` is short and fit for a label."""

    reason = "wire"


class MalformedError(WireError):
    reason = "malformed"


class UnknownKindError(WireError):
    reason = "unknown_kind"


# --- parts of messages --------------------------------------------------------------


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value inside a message: no kind of its own."""


class ErrorInfo(Part):
    """An exception as text. ``traceback`` is at most 16 KB, its end kept."""

    type: str
    message: str = ""
    traceback: str = ""


class MetricSpec(Part):
    """One metric as its source declared it, before any prefix or suffix.

    ``type`` is ``counter``, ``gauge`` or ``histogram``; ``merge`` the gauge's rule;
    ``buckets`` the histogram's upper bounds without +Inf. ``free`` metrics come from
    ``publish_metric``: the same name may come with several sets of label names.
    """

    name: str
    type: str
    help: str = ""
    labels: Tuple[str, ...] = ()
    merge: str = "last"
    buckets: Tuple[float, ...] = ()
    free: bool = False


class SeriesSpec(Part):
    """One series: the number of its metric in the schema, and its label values."""

    metric: int
    values: Tuple[str, ...] = ()


class PhaseSpan(Part):
    """A phase of an episode; ``start`` and ``duration`` in seconds, from its start."""

    name: str
    start: float
    duration: float
    steps: int = 0


class StepSpan(Part):
    """A step that was looked at; times as in :class:`PhaseSpan`."""

    step: int
    start: float
    duration: float
    scores: Dict[str, float] = {}


class Event(Part):
    """Something that the experiment told, ``at`` seconds from the episode's start."""

    name: str
    at: float
    attributes: Dict[str, Any] = {}


class OpenEpisode(Part):
    """Where an open episode stands. ``started`` and ``last`` are the source's clock."""

    number: int
    mode: str
    steps: int = 0
    started: float = 0.0
    last: float = 0.0
    phase: str = ""
    epoch: Optional[int] = None
    index: Optional[int] = None
    target: Optional[str] = None


class Image(Part):
    """An image's shape; its bytes are the attachment number ``part`` (0 is the first).

    ``shape`` is (height, width) or (height, width, channels), C order; ``dtype`` a
    numpy type string such as ``|u1`` or ``<f4``; ``stride`` the step by which a larger
    one was thinned in both directions.
    """

    name: str
    shape: Tuple[int, ...]
    dtype: str
    part: int
    stride: int = 1


class Moment(Part):
    """What one step looked like. ``state`` is plain values, encoded (see ``plain``).

    ``episode`` is its number in the source, or None for a state of the run itself; what
    follows the images says which episode that is, for those that are over in no time.
    """

    time: float
    episode: Optional[int] = None
    step: int = 0
    state: bytes = b""
    scores: Dict[str, float] = {}
    images: Tuple[Image, ...] = ()
    mode: str = ""
    epoch: Optional[int] = None
    index: Optional[int] = None
    target: Optional[str] = None


# --- records: not lost --------------------------------------------------------------


class Record(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind"):
    """What every record has. ``source`` is 16 bytes, ``seq`` counts from 1 in it,
    ``time`` is Unix seconds by the source's clock."""

    run: str
    source: bytes
    seq: int
    time: float


class SourceOpened(Record, tag="source_opened"):
    """A process takes part in a run. ``role`` is ``owner``, ``child`` or ``shared``;
    ``owner`` the source id of the owner, where it is known."""

    host: str = ""
    pid: int = 0
    name: str = ""
    role: str = "owner"
    owner: bytes = b""
    python: str = ""
    version: str = ""
    thread: bool = True


class RunOpened(Record, tag="run_opened"):
    """What a process says of the run that it opened or joined."""

    experiment: str = ""
    resume: bool = False
    config: Any = None
    tags: Dict[str, Any] = {}
    facts: Dict[str, Any] = {}
    info: Dict[str, Any] = {}
    launch: Dict[str, Any] = {}
    expected_episodes: Dict[str, int] = {}
    expected_steps: Dict[str, int] = {}
    expected_epochs: Dict[str, int] = {}
    success: Optional[Tuple[str, ...]] = None
    promise: Optional[float] = None
    episode_duration_buckets: Tuple[float, ...] = EPISODE_DURATION_BUCKETS
    episode_steps_buckets: Tuple[float, ...] = EPISODE_STEPS_BUCKETS


class RunClosed(Record, tag="run_closed"):
    """The owner's word on the end. ``ending`` is completed, failed or stopped."""

    ending: str
    reason: str = ""
    error: Optional[ErrorInfo] = None


class SourceClosed(Record, tag="source_closed"):
    """The last record of a source, with its final totals (see :class:`Sample`)."""

    ending: str
    reason: str = ""
    error: Optional[ErrorInfo] = None
    totals: bytes = b""
    dropped: Dict[str, int] = {}
    epochs: Dict[str, int] = {}


class Schema(Record, tag="schema"):
    """What was added to the schema; numbers of both lists go on where they ended."""

    first_metric: int
    first_series: int
    metrics: Tuple[MetricSpec, ...] = ()
    series: Tuple[SeriesSpec, ...] = ()


class EpisodeStarted(Record, tag="episode_started"):
    """``number`` counts the source's episodes from 0."""

    number: int
    mode: str
    epoch: Optional[int] = None
    index: Optional[int] = None
    target: Optional[str] = None
    seed: Optional[int] = None


class EpisodeEnded(Record, tag="episode_ended"):
    """One whole episode: what its row and its trace are made of.

    ``started`` is the source's clock; ``duration`` is measured by a monotonic one.
    ``success`` is None where the run did not say which outcomes are successes.
    """

    number: int
    mode: str
    started: float
    duration: float
    steps: int
    outcome: str
    epoch: Optional[int] = None
    index: Optional[int] = None
    target: Optional[str] = None
    seed: Optional[int] = None
    success: Optional[bool] = None
    results: Dict[str, float] = {}
    attributes: Dict[str, Any] = {}
    scores: Dict[str, float] = {}
    phases: Tuple[PhaseSpan, ...] = ()
    sampled: Tuple[StepSpan, ...] = ()
    events: Tuple[Event, ...] = ()
    omitted: Dict[str, int] = {}
    error: Optional[ErrorInfo] = None


class LogLine(Record, tag="log"):
    """A log line; ``level`` in lower case, ``trace`` the open episode's trace id."""

    level: str
    message: str
    logger: str = ""
    fields: Dict[str, Any] = {}
    trace: str = ""


class CommandAnswered(Record, tag="command_answered"):
    """``state`` is delivered, accepted, done or failed."""

    command: str
    state: str
    detail: str = ""


class GivenUp(Record, tag="given_up"):
    """Sequence numbers (first and last of each range) that will never come."""

    ranges: Tuple[Tuple[int, int], ...]
    reason: str = ""


# --- messages from a source ---------------------------------------------------------


class Message(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind"):
    """The head part of a ZeroMQ message."""


class Hello(Message, tag="hello"):
    """First on every connection. ``sent`` is the source's clock, Unix seconds.

    ``replay``: not the source itself, but somebody who delivers what it left on disk.
    """

    protocol: int
    source: bytes
    run: str
    sent: float
    version: str = ""
    host: str = ""
    pid: int = 0
    experiment: str = ""
    thread: bool = True
    announced: int = 0
    role: str = "owner"
    owner: bytes = b""
    resume: bool = False
    replay: bool = False


class Records(Message, tag="records"):
    """Records, one an attachment, in the order of ``seqs``."""

    seqs: Tuple[int, ...]
    sent: float
    announced: int = 0


class Sample(Message, tag="sample"):
    """The source's totals so far and its present moment: the newest one wins.

    ``totals`` are little-endian doubles, by the series of the schema in order: a
    counter one value, a gauge two (value, number of sets), a histogram its counts per
    bucket (not cumulative, +Inf last) and then its sum. ``progress`` is the time of the
    newest progress, ``gap`` the longest time between two so far, ``gaps`` how many
    there were; ``promise`` the open phase's own. ``moments`` has at most one of an
    episode and one of the run itself. ``commands`` are the names of those that it
    takes, ``stop`` among them where it can be stopped.
    """

    number: int
    sent: float
    announced: int = 0
    totals: bytes = b""
    progress: float = 0.0
    gap: float = 0.0
    gaps: int = 0
    promise: Optional[float] = None
    open: Tuple[OpenEpisode, ...] = ()
    epochs: Dict[str, int] = {}
    moments: Tuple[Moment, ...] = ()
    streams: Dict[str, bytes] = {}
    dropped: Dict[str, int] = {}
    commands: Tuple[str, ...] = ()


class Heartbeat(Message, tag="heartbeat"):
    """The source's sender lives, whatever the experiment's own thread does."""

    sent: float
    announced: int = 0


# --- messages from the exporter -----------------------------------------------------


class Welcome(Message, tag="welcome"):
    """The answer to hello. ``run`` is the id under which the exporter shows the run
    (another one than asked when that was taken); ``url`` the page of it."""

    protocol: int
    time: float
    version: str = ""
    run: str = ""
    url: str = ""
    watched: bool = False


class Refused(Message, tag="refused"):
    """The exporter will not listen; ``sentence`` says what a person can do about it."""

    reason: str
    sentence: str


class Who(Message, tag="who"):
    """The exporter does not know this connection: say hello again."""


class Ack(Message, tag="ack"):
    """Committed records as ranges (first, last), and the newest sample received."""

    records: Tuple[Tuple[int, int], ...] = ()
    sample: int = 0


class Watch(Message, tag="watch"):
    """Whether a person looks at the run now."""

    on: bool


class Command(Message, tag="command"):
    """``when`` is step, episode or now."""

    id: str
    name: str
    when: str = "step"
    reason: str = ""
    by: str = ""


class Ping(Message, tag="ping"):
    """Nothing to answer: whether it can be sent tells if the connection is there."""


AnyRecord = Union[
    SourceOpened, RunOpened, RunClosed, SourceClosed, Schema, EpisodeStarted,
    EpisodeEnded, LogLine, CommandAnswered, GivenUp,
]  # fmt: skip
FromSource = Union[Hello, Records, Sample, Heartbeat]
FromExporter = Union[Welcome, Refused, Who, Ack, Watch, Command, Ping]


class _Kind(msgspec.Struct):
    kind: str


# A map inside a map's key is a TypeError for msgspec 0.18.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)
_encoder = msgspec.msgpack.Encoder()
_kind_decoder = msgspec.msgpack.Decoder(_Kind)


class _Reader:
    """Decodes one closed set of kinds and says whose fault it is when it cannot."""

    def __init__(self, kinds: Any, limit: int) -> None:
        self._decoder: Any = msgspec.msgpack.Decoder(kinds)
        members: Sequence[Type[msgspec.Struct]] = kinds.__args__
        self._tags = {member.__struct_config__.tag for member in members}
        self._limit = limit

    def __call__(self, data: bytes) -> Any:
        if len(data) > self._limit:
            raise MalformedError(f"{len(data)} bytes, more than {self._limit}")
        try:
            return self._decoder.decode(data)
        except _UNREADABLE as error:
            kind = self._kind(data)
            if kind is not None and kind not in self._tags:
                raise UnknownKindError(f"kind {kind[:64]!r}") from None
            raise MalformedError(str(error)) from None

    @staticmethod
    def _kind(data: bytes) -> Optional[str]:
        try:
            return _kind_decoder.decode(data).kind
        except _UNREADABLE:
            return None


_read_record = _Reader(AnyRecord, MAX_RECORD_BYTES)
_read_source = _Reader(FromSource, MAX_HEAD_BYTES)
_read_exporter = _Reader(FromExporter, MAX_HEAD_BYTES)


def encode(message: Union[AnyRecord, FromSource, FromExporter]) -> bytes:
    """Encode a record or the head of a message.

    Raises:
        MalformedError: a value in it is not plain (text that is no Unicode, an integer
            above 64 bits, an object). Callers pass values through ``plain`` first.
    """
    try:
        return _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedError(
            f"cannot encode {type(message).__name__}: {error}"
        ) from None


def decode_record(data: bytes) -> AnyRecord:
    """Decode one record.

    Raises:
        WireError: it is malformed or of an unknown kind.
    """
    record: AnyRecord = _read_record(data)
    if len(record.source) != 16 or not 0 < record.seq < 1 << 63:
        raise MalformedError(
            "a record needs a source of 16 bytes and a sequence from 1"
        )
    return record


def decode_from_source(data: bytes) -> FromSource:
    """Decode the head of a message from a source; raises :class:`WireError`."""
    message: FromSource = _read_source(data)
    if isinstance(message, Hello) and len(message.source) != 16:
        raise MalformedError("hello needs a source of 16 bytes")
    return message


def decode_from_exporter(data: bytes) -> FromExporter:
    """Decode the head of a message from the exporter; raises :class:`WireError`."""
    message: FromExporter = _read_exporter(data)
    return message


def encode_plain(value: Any) -> bytes:
    """Encode plain values (see ``experiment_hooks.plain``); raises MalformedError."""
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedError(f"not plain: {error}") from None


def decode_plain(data: bytes) -> Any:
    """Decode what :func:`encode_plain` made; raises :class:`MalformedError`."""
    try:
        return msgspec.msgpack.decode(data)
    except _UNREADABLE as error:
        raise MalformedError(str(error)) from None


def pack_totals(values: Sequence[float]) -> bytes:
    """Doubles, little-endian, as a sample carries them."""
    return struct.pack(f"<{len(values)}d", *values)


def unpack_totals(data: bytes) -> Tuple[float, ...]:
    """The inverse of :func:`pack_totals`; raises :class:`MalformedError`."""
    if len(data) % 8:
        raise MalformedError(f"totals of {len(data)} bytes are no doubles")
    return struct.unpack(f"<{len(data) // 8}d", data)


def slots(spec: MetricSpec) -> int:
    """How many totals one series of this metric takes."""
    if spec.type == "histogram":
        return len(spec.buckets) + 2
    return 2 if spec.type == "gauge" else 1


def trace_id(run: str, source: bytes, number: int) -> str:
    """The trace id of an episode: 32 hexadecimal digits, the first 16 bytes of SHA-256
    over the run's id (as the source knows it), the source's id and its own count."""
    text = run.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(
        len(text).to_bytes(4, "big") + text + source + number.to_bytes(8, "big")
    )
    return digest.hexdigest()[:32]


def span_id(trace: str, name: str, number: int = 0) -> str:
    """A span's id in a trace: 16 hexadecimal digits; ``name`` is ``episode`` for the
    root, ``phase`` or ``step`` with their number for its children."""
    return hashlib.sha256(f"{trace}/{name}/{number}".encode()).hexdigest()[:16]


def ranges(numbers: Iterable[int]) -> Tuple[Tuple[int, int], ...]:
    """Sorted, joined ranges (first, last) of the numbers given in any order."""
    ordered = sorted(set(numbers))
    if ordered and ordered[-1] - ordered[0] == len(ordered) - 1:  # without a hole
        return ((ordered[0], ordered[-1]),)
    return joined((number, number) for number in ordered)


def joined(parts: Iterable[Tuple[int, int]]) -> Tuple[Tuple[int, int], ...]:
    """The same of ranges that may touch or overlap."""
    found: List[Tuple[int, int]] = []
    for first, last in sorted(parts):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)
