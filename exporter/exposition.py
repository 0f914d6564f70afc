"""The exposition: how metrics are written for Prometheus, and in which format.

Rules of this module:

- Values in, bytes out: no I/O, no clock, no thread, nothing kept between two calls.
  What is worth keeping (a series' text up to its number) the caller keeps, as a
  :data:`Prefix` or :class:`Buckets`, and hands in again at the next scrape.
- The bytes are those of prometheus_client 0.26's ``generate_latest`` for the same
  families from a custom collector. It takes 10 us a line; at 100,000 series that is a
  second of everybody's interpreter lock, hence this module.
- A wrong name, label or exemplar raises ``ValueError`` where it is made, so that one
  run's oddity never costs a whole scrape.

Two formats: Prometheus text 0.0.4, and OpenMetrics 1.0, which alone has exemplars.
Their lines of series are the same but for those; headers and the end differ.

What is written are bytes from the start: the last step is a copy and not an encoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from math import inf, isfinite, isnan
from typing import Literal, NewType, TypeAlias

import msgspec

CONTENT_TYPE_TEXT = "text/plain; version=0.0.4; charset=utf-8"
CONTENT_TYPE_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

EXEMPLAR_LABELS_MAX = 128
"""Characters in an exemplar's label names and values together (OpenMetrics 1.0)."""

_EOF = b"# EOF\n"

# Prometheus also allows colons, which are for recording rules, not for what exports.
_METRIC_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

_as_json = msgspec.json.Encoder().encode
# Below this repr has an exponent, and JSON has none.
_PLAIN_FROM = 1e-4
# From here on Go's %g, which Prometheus writes, and Python's repr differ: 1e+06.
_GO_EXPONENT = 1e6
# From here on Python's repr has an exponent too, written the same way.
_PYTHON_EXPONENT = 1e16
# Between the two, by the number of digits before the point.
_EXPONENTS = {digits: b"e+%02d" % (digits - 1) for digits in range(7, 17)}

Labels: TypeAlias = Iterable[tuple[str, str]]
"""Names and values, each name once. They are written in the order of their names."""

Type: TypeAlias = Literal["counter", "gauge", "histogram"]


# --- what the caller keeps: a series' text but for its numbers ----------------------


Prefix = NewType("Prefix", bytes)
"""A line up to its number, with the end of the line before; see :func:`prefix`."""


def prefix(name: str, kind: Literal["counter", "gauge"], labels: Labels) -> Prefix:
    """Makes the constant part of a counter's or gauge's series.

    Args:
        name: The family's name; a counter's ``_total`` is added here.
        kind: The family's type.
        labels: The series' labels.

    Raises:
        ValueError: A name that is none, a label given twice, a lone surrogate.
    """
    _check_name(name, kind)
    suffix = "_total" if kind == "counter" else ""
    braces = _in_braces(_label_texts(labels).values())
    return _line_up_to_number(f"{name}{suffix}{braces}")


def _line_up_to_number(series: str) -> Prefix:
    return Prefix(f"\n{series} ".encode())


class Buckets:
    """A histogram's series: all its lines but for the numbers. Made once, and kept."""

    __slots__ = ("_has_sum", "_size", "prefixes")

    def __init__(self, name: str, labels: Labels, bounds: Sequence[float]) -> None:
        """Makes the constant part of a histogram's series.

        Args:
            name: The family's name, without ``_bucket``, ``_count`` or ``_sum``.
            labels: The series' labels, without ``le``.
            bounds: The buckets' upper bounds, rising. +Inf may be left out.

        Raises:
            ValueError: As :func:`prefix`; a label ``le``; bounds that do not rise.
        """
        _check_name(name, "histogram")
        texts = _label_texts(labels)
        if "le" in texts:
            raise ValueError(f"{name}: the label le is the buckets' own")
        bounds = _with_infinity(name, bounds)
        self._size = len(bounds)
        # A sum of what may be negative is no counter, and without a sum OpenMetrics
        # wants no count either: it is the bucket +Inf. prometheus_client does the same.
        self._has_sum = bounds[0] >= 0
        self.prefixes = _bucket_prefixes(name, texts, bounds)
        if self._has_sum:
            braces = _in_braces(texts.values())
            self.prefixes += [
                _line_up_to_number(f"{name}_count{braces}"),
                _line_up_to_number(f"{name}_sum{braces}"),
            ]

    def numbers(self, counts: Sequence[float], total: float) -> list[float]:
        """The numbers of its lines.

        Raises:
            ValueError: Not one count per bound, +Inf included.
        """
        if len(counts) != self._size:
            raise ValueError(f"{len(counts)} counts for {self._size} buckets")
        numbers = [*accumulate(counts)]
        if self._has_sum:
            numbers += (numbers[-1], total)
        return numbers


def _bucket_prefixes(
    name: str, texts: Mapping[str, str], bounds: Sequence[float]
) -> list[Prefix]:
    before = "".join(f"{text}," for label, text in texts.items() if label < "le")
    after = "".join(f",{text}" for label, text in texts.items() if label > "le")
    return [
        _line_up_to_number(f'{name}_bucket{{{before}le="{go_float(bound)}"{after}}}')
        for bound in bounds
    ]


def _with_infinity(name: str, bounds: Sequence[float]) -> list[float]:
    bounds = [*bounds] if bounds and bounds[-1] == inf else [*bounds, inf]
    # Written so that NaN, which is not below anything, fails as well.
    if not all(low < high for low, high in pairwise(bounds)):
        raise ValueError(f"{name}: the bounds of the buckets must rise: {bounds}")
    return bounds


# --- what a scrape hands in ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation that stands for many: usually the trace it belongs to.

    ``timestamp`` is Unix seconds. ``text`` is how it is written behind a value.

    Raises:
        ValueError: More than 128 characters of labels, a name that is none, a label
            given twice, a lone surrogate, a time that is none.
    """

    labels: tuple[tuple[str, str], ...]
    value: float
    timestamp: float | None = None
    text: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        length = sum(len(name) + len(value) for name, value in self.labels)
        if length > EXEMPLAR_LABELS_MAX:
            raise ValueError(
                f"an exemplar's labels have at most {EXEMPLAR_LABELS_MAX} characters,"
                f" not {length}"
            )
        if self.timestamp is not None and not isfinite(self.timestamp):
            raise ValueError(f"an exemplar's timestamp cannot be {self.timestamp}")
        labels = ",".join(_label_texts(self.labels).values())
        at = "" if self.timestamp is None else f" {self.timestamp}"
        text = f" # {{{labels}}} {go_float(self.value)}{at}"
        object.__setattr__(self, "text", text.encode())


class Family:
    """All series of one name, as they are now: line by line a prefix and a number.

    A body holds a name once: neither format allows a second family of it.

    Attributes:
        name: Without ``_total``, ``_bucket``, ``_count`` or ``_sum``.
        type: What the series are.
        help: One sentence for people.

    Raises:
        ValueError: A name that is none, or a counter's with its ``_total``.
    """

    __slots__ = ("_exemplars", "_numbers", "_prefixes", "help", "name", "type")

    def __init__(self, name: str, type: Type, help: str) -> None:
        _check_name(name, type)
        help.encode()
        self.name, self.type, self.help = name, type, help
        self._prefixes: list[Prefix] = []
        self._numbers: list[float] = []
        self._exemplars: dict[int, Exemplar] = {}

    def __bool__(self) -> bool:
        """Whether it has any series."""
        return bool(self._prefixes)

    def add(
        self, prefix: Prefix, number: float, exemplar: Exemplar | None = None
    ) -> None:
        """Adds a series of a counter or gauge; the prefix is of this name and type.

        A gauge's exemplar is left out: OpenMetrics allows none.
        """
        if exemplar is not None and self.type == "counter":
            self._exemplars[len(self._prefixes)] = exemplar
        self._prefixes.append(prefix)
        self._numbers.append(number)

    def extend(self, prefixes: Sequence[Prefix], numbers: Sequence[float]) -> None:
        """Adds many such series.

        Raises:
            ValueError: Not as many of these as of those.
        """
        if len(prefixes) != len(numbers):
            raise ValueError(f"{len(numbers)} numbers for {len(prefixes)} series")
        self._prefixes += prefixes
        self._numbers += numbers

    def add_histogram(
        self,
        buckets: Buckets,
        counts: Sequence[float],
        total: float,
        exemplars: Mapping[int, Exemplar] | None = None,
    ) -> None:
        """Adds a series of a histogram.

        Args:
            buckets: Of this name.
            counts: Whole counts per bucket, not cumulative, +Inf last.
            total: The sum of what was observed.
            exemplars: By the bucket's index.

        Raises:
            ValueError: Not one count per bound, +Inf included.
            IndexError: An exemplar of no bucket.
        """
        numbers = buckets.numbers(counts, total)
        if exemplars:
            if not 0 <= min(exemplars) <= max(exemplars) < len(counts):
                raise IndexError(f"exemplars of {[*exemplars]}, {len(counts)} buckets")
            first = len(self._prefixes)
            for bucket, exemplar in exemplars.items():
                self._exemplars[first + bucket] = exemplar
        self._prefixes += buckets.prefixes
        self._numbers += numbers

    def pieces(self, openmetrics: bool) -> list[bytes]:
        """Writes it; the pieces are to be joined."""
        texts = _number_texts([*map(float, self._numbers)])
        if openmetrics:
            for line, exemplar in self._exemplars.items():
                texts[line] += exemplar.text
        # Every second piece is a number, between the header and the last line's end.
        found: list[bytes] = [b"\n"] * (2 * len(texts) + 2)
        found[0] = self._header(openmetrics).encode()
        found[1:-1:2] = self._prefixes
        found[2:-1:2] = texts
        return found

    def _header(self, openmetrics: bool) -> str:
        name, text = self.name, self.help.replace("\\", r"\\").replace("\n", r"\n")
        if openmetrics:
            text = text.replace('"', r"\"")
        elif self.type == "counter":
            name += "_total"
        return f"# HELP {name} {text}\n# TYPE {name} {self.type}"


def render(families: Iterable[Family], openmetrics: bool) -> bytes:
    """Writes a whole body."""
    end = _EOF if openmetrics else b""
    return b"".join((*pieces(families, openmetrics), end))


def pieces(families: Iterable[Family], openmetrics: bool) -> Iterator[bytes]:
    """Writes the families without an end, to be joined with other bodies.

    An OpenMetrics body must end with ``# EOF``, once: put the body of
    prometheus_client, which brings it, last.
    """
    return chain.from_iterable(family.pieces(openmetrics) for family in families)


# --- numbers, names, labels ---------------------------------------------------------


def _number_texts(numbers: list[float]) -> list[bytes]:
    """Writes many numbers at once: a fifth of what one by one takes."""
    if not numbers:
        return []
    # As repr does, but where the exponents of JSON are others, and for what is none.
    texts = _as_json(numbers)[1:-1].split(b",")
    for place, number in enumerate(numbers):
        if not _PLAIN_FROM <= number < _GO_EXPONENT and number != 0.0:
            if _GO_EXPONENT <= number < _PYTHON_EXPONENT:
                texts[place] = _with_exponent(texts[place])
            else:
                texts[place] = go_float(number).encode()
    return texts


def go_float(value: float) -> str:
    """Writes a number as prometheus_client does: from a million on like Go's ``%g``."""
    value = float(value)
    return repr(value) if -inf < value < _GO_EXPONENT else _large(value)


def _large(value: float) -> str:
    """Writes a float that is a million or more, infinite or NaN."""
    if 0 < value < _PYTHON_EXPONENT:
        return _with_exponent(repr(value).encode()).decode()
    if isfinite(value):
        return repr(value)
    return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"


def _with_exponent(plain: bytes) -> bytes:
    """Writes what repr writes of a million or more, and has no exponent there."""
    whole, _, fraction = plain.partition(b".")
    mantissa = whole[:1] + b"." + whole[1:] + fraction
    return mantissa.rstrip(b"0.") + _EXPONENTS[len(whole)]


def _check_name(name: str, kind: Type) -> None:
    if not _METRIC_NAME.fullmatch(name):
        raise ValueError(f"not a metric's name: {name!r}")
    if kind == "counter" and name.endswith("_total"):
        raise ValueError(f"a counter is named without its _total: {name!r}")


def _label_texts(labels: Labels) -> dict[str, str]:
    """Returns ``name="value"`` by name, in the order of the names."""
    texts: dict[str, str] = {}
    for name, value in sorted(labels):
        if name in texts or not _LABEL_NAME.fullmatch(name):
            raise ValueError(f"not a label's name, or given twice: {name!r}")
        escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        texts[name] = f'{name}="{escaped}"'
    return texts


def _in_braces(texts: Iterable[str]) -> str:
    inside = ",".join(texts)
    return f"{{{inside}}}" if inside else ""


# --- which format -------------------------------------------------------------------


def negotiate(accept: str) -> tuple[bool, str]:
    """Chooses the format by an ``Accept`` header ("" if there is none).

    OpenMetrics is written only for those who ask for it by name, in version 1.0.0 or
    in any, and do not want text more. Text is written for everybody else: also for
    those who take neither (protobuf only), as Prometheus's own clients do.

    Returns:
        Whether it is OpenMetrics, and the content type.
    """
    ranges = [_media_range(item) for item in accept.split(",")]
    openmetrics = max(
        (
            quality
            for media, version, quality in ranges
            if media == "application/openmetrics-text" and version in ("", "1.0.0")
        ),
        default=0.0,
    )
    if openmetrics > 0 and openmetrics >= _quality_of_text(ranges):
        return True, CONTENT_TYPE_OPENMETRICS
    return False, CONTENT_TYPE_TEXT


def _quality_of_text(ranges: Sequence[tuple[str, str, float]]) -> float:
    # The most specific range that names it decides (RFC 9110, 12.5.1).
    for name in ("text/plain", "text/*", "*/*"):
        qualities = [quality for media, _, quality in ranges if media == name]
        if qualities:
            return max(qualities)
    return 0.0


def _media_range(item: str) -> tuple[str, str, float]:
    """Returns the media type, its version ("" for any) and its quality."""
    media, *parameters = (part.strip().lower() for part in item.split(";"))
    version, quality = "", 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.rstrip() == "version":
            version = value.strip().strip('"')
        elif name.rstrip() == "q":
            quality = _quality(value)
    return media, version, quality


def _quality(value: str) -> float:
    # What cannot be read is not taken: the answer is then text, which all can read.
    try:
        quality = float(value)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
