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

All text in here is UTF-8 *seen as Latin-1*: one character per byte. So the last step is
a copy and not an encoding, and one umlaut in one label does not make Python keep, join
and encode the whole family as wide characters.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import inf, isfinite, isnan
from typing import Literal, NewType, TypeAlias, cast

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
_EXPONENTS = {digits: f"e+{digits - 1:02d}" for digits in range(7, 17)}

Labels: TypeAlias = Iterable[tuple[str, str]]
"""Names and values, each name once. They are written in the order of their names."""

Type: TypeAlias = Literal["counter", "gauge", "histogram"]


# --- what the caller keeps: a series' text but for its numbers ----------------------


Prefix = NewType("Prefix", str)
"""A counter's or gauge's line up to its value, made once by :func:`prefix`."""


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
    return Prefix(f"{name}{suffix}{_in_braces(_label_texts(labels).values())} ")


class Buckets:
    """A histogram's series: all its lines but for the numbers. Made once, and kept."""

    __slots__ = ("_has_sum", "_parts", "_size")

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
        lines = _bucket_prefixes(name, texts, bounds)
        if self._has_sum:
            braces = _in_braces(texts.values())
            lines += [f"{name}_count{braces} ", f"{name}_sum{braces} "]
        # Every second place is for a number: a scrape fills them and joins it all.
        self._parts = [part for line in lines for part in (f"\n{line}", "")] + ["\n"]
        self._parts[0] = lines[0]

    def fill(
        self,
        counts: Sequence[float],
        total: float,
        exemplars: Mapping[int, Exemplar] | None = None,
    ) -> str:
        """Writes the histogram's lines, as UTF-8 seen as Latin-1.

        Raises:
            ValueError: Not one count per bound, +Inf included.
            IndexError: An exemplar of no bucket.
        """
        if len(counts) != self._size:
            raise ValueError(f"{len(counts)} counts for {self._size} buckets")
        texts = _cumulative_texts(counts)
        tail = (texts[-1], go_float(total)) if self._has_sum else ()
        if exemplars:
            for bucket, exemplar in exemplars.items():
                texts[bucket] += exemplar.text
        parts = self._parts.copy()
        parts[1::2] = (*texts, *tail)
        return "".join(parts)


def _cumulative_texts(counts: Sequence[float]) -> list[str]:
    cumulative = [*map(float, accumulate(counts))]
    if 0 <= cumulative[-1] < _PYTHON_EXPONENT:
        # Whole numbers that rise: none is too small, and what is large is at the end.
        texts = _plain_texts(cumulative)
        large = bisect_left(cumulative, _GO_EXPONENT)
        try:
            texts[large:] = map(_with_exponent, texts[large:])
            return texts
        except KeyError:  # they do not: whoever says so may
            pass
    return [*map(go_float, cumulative)]


def _bucket_prefixes(
    name: str, texts: Mapping[str, str], bounds: Sequence[float]
) -> list[str]:
    before = "".join(f"{text}," for label, text in texts.items() if label < "le")
    after = "".join(f",{text}" for label, text in texts.items() if label > "le")
    return [
        f'{name}_bucket{{{before}le="{go_float(bound)}"{after}}} ' for bound in bounds
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
    text: str = field(init=False, repr=False, compare=False)

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
        object.__setattr__(self, "text", text)


Point: TypeAlias = tuple[Prefix, float, Exemplar | None]
"""A counter or gauge now. A gauge's exemplar is left out: OpenMetrics allows none."""

Distribution: TypeAlias = tuple[
    Buckets, Sequence[float], float, Mapping[int, Exemplar] | None
]
"""A histogram now: whole counts per bucket (not cumulative, +Inf last), the sum of what
was observed, and exemplars by the bucket's index."""


@dataclass(frozen=True, slots=True)
class Family:
    """All series of one name, as they are now.

    A body holds a name once: neither format allows a second family of it.

    Attributes:
        name: Without ``_total``, ``_bucket``, ``_count`` or ``_sum``.
        type: What the series are.
        help: One sentence for people.
        series: :data:`Point` or, in a histogram, :data:`Distribution`: plain tuples,
            as there are many. Their prefixes are of this name and type, which is not
            checked. Gone through once per rendering.

    Raises:
        ValueError: A name that is none, or a counter's with its ``_total``.
    """

    name: str
    type: Type
    help: str
    series: Iterable[Point] | Iterable[Distribution]

    def __post_init__(self) -> None:
        _check_name(self.name, self.type)
        _as_latin1(self.help)


def render(families: Iterable[Family], openmetrics: bool) -> bytes:
    """Writes a whole body."""
    end = _EOF if openmetrics else b""
    return b"".join((*pieces(families, openmetrics), end))


def pieces(families: Iterable[Family], openmetrics: bool) -> Iterator[bytes]:
    """Writes the families one by one, without an end, to be joined with other bodies.

    An OpenMetrics body must end with ``# EOF``, once: put the body of
    prometheus_client, which brings it, last.
    """
    for family in families:
        lines = [_header(family, openmetrics), *_series_lines(family, openmetrics)]
        yield "".join(lines).encode("latin-1")


def _header(family: Family, openmetrics: bool) -> str:
    name, text = family.name, family.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        text = text.replace('"', r"\"")
    elif family.type == "counter":
        name += "_total"
    return f"# HELP {name} {_as_latin1(text)}\n# TYPE {name} {family.type}\n"


def _series_lines(family: Family, openmetrics: bool) -> list[str]:
    # The type says which of the two it is; looking at each series would cost too much.
    if family.type == "histogram":
        return [
            buckets.fill(counts, total, exemplars if openmetrics else None)
            for buckets, counts, total, exemplars in cast(
                Iterable[Distribution], family.series
            )
        ]
    points = cast(Iterable[Point], family.series)
    return _point_lines(points, openmetrics and family.type == "counter")


def _point_lines(points: Iterable[Point], exemplars: bool) -> list[str]:
    # The hot loop: all numbers are written at once, and those that are to be written
    # otherwise once more.
    points = [*points]
    values = [float(value) for _, value, _ in points]
    return [
        f"{prefix}{text}\n"
        if exemplar is None and (_PLAIN_FROM <= value < _GO_EXPONENT or value == 0.0)
        else f"{prefix}{_with_exponent(text)}\n"
        if exemplar is None and _GO_EXPONENT <= value < _PYTHON_EXPONENT
        else f"{prefix}{go_float(value)}\n"
        if exemplar is None or not exemplars
        else f"{prefix}{go_float(value)}{exemplar.text}\n"
        for (prefix, _, exemplar), value, text in zip(
            points, values, _plain_texts(values), strict=True
        )
    ]


# --- numbers, names, labels ---------------------------------------------------------


def _plain_texts(values: list[float]) -> list[str]:
    """Writes floats as repr does, in a fifth of its time.

    Only 0, and from ``_PLAIN_FROM`` up to ``_PYTHON_EXPONENT``: elsewhere JSON has
    other exponents than repr, and no word for what is infinite or no number.
    """
    return str(_as_json(values)[1:-1], "latin-1").split(",") if values else []


def go_float(value: float) -> str:
    """Writes a number as prometheus_client does: from a million on like Go's ``%g``."""
    value = float(value)
    return repr(value) if -inf < value < _GO_EXPONENT else _large(value)


def _large(value: float) -> str:
    """Writes a float that is a million or more, infinite or NaN."""
    if 0 < value < _PYTHON_EXPONENT:
        return _with_exponent(repr(value))
    if isfinite(value):
        return repr(value)
    return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"


def _with_exponent(plain: str) -> str:
    """Writes what repr writes of a million or more, and has no exponent there."""
    whole, _, fraction = plain.partition(".")
    mantissa = f"{whole[0]}.{whole[1:]}{fraction}".rstrip("0.")
    return mantissa + _EXPONENTS[len(whole)]


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
        texts[name] = f'{name}="{_as_latin1(escaped)}"'
    return texts


def _in_braces(texts: Iterable[str]) -> str:
    inside = ",".join(texts)
    return f"{{{inside}}}" if inside else ""


def _as_latin1(text: str) -> str:
    return text.encode().decode("latin-1")


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
