"""What the tap says of a record, a sample, a verdict: a topic and plain values. Pure.

The shapes are the API's where it has them. Topics are ``run/<run>/<kind>``; a run's id
has no slash in it. The caller holds the state's lock where a process is given.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from experiment_hooks import wire
from exporter import views
from exporter.changes import Change
from exporter.inbox import Newest
from exporter.journal import Entry
from exporter.reader import LOST, Row
from exporter.runs import Source

Json = dict[str, Any]
SCORE_BYTES = 100
"""What a score takes with its name, about."""
_JOURNALS = ("late", "last_seen")
"""Of an episode, what only the journal knows."""


class Seen(NamedTuple):
    """A sample with something to be seen: from whom, and when it came."""

    run: str
    source: bytes
    sample: wire.Sample
    at: float

    @classmethod
    def of(cls, run: str, source: bytes, newest: Newest) -> "Seen":
        """Of a sample as it came, without the bytes of its images."""
        return cls(run, source, newest.sample, newest.received)

    @property
    def size(self) -> int:
        """Bytes held, about."""
        sample = self.sample
        streams = sum(map(len, sample.streams.values()))
        moments = (
            len(moment.state) + SCORE_BYTES * len(moment.scores)
            for moment in sample.moments
        )
        return len(sample.totals) + streams + sum(moments)


def topic(run: str, kind: str) -> bytes:
    """Where it is said."""
    return f"run/{run}/{kind}".encode()


def of_record(entry: Entry, lost: bool, one: Source) -> Json | None:
    """A committed record of a process; None for one of which nothing is said.

    Args:
        entry: the record, and when it was made by the exporter's clock.
        lost: whether it is the end of an episode that the exporter closed.
        one: whose it is.
    """
    record = entry.record
    say = _SAID.get(type(record))
    if say is None:
        return None
    said = {**_head(str(record.__struct_config__.tag), entry.run, record.source)}
    said.update(say(record, one))
    said["time"] = entry.at
    if isinstance(record, wire.EpisodeEnded) and lost:
        said["outcome"] = LOST
    return said


def of_sample(seen: Seen, asked: str) -> Iterator[Json]:
    """What a sample shows: a message for each moment, streams with the first.

    ``asked`` is the run's id as the process knows it, of which traces' ids are made.
    """
    streams = {name: decoded(data) for name, data in seen.sample.streams.items()}
    for moment in seen.sample.moments or (None,):
        said = {**_head("state", seen.run, seen.source), "time": seen.at}
        said.update(_moment(moment or wire.Moment(seen.at), seen.source, asked))
        said["streams"], streams = streams, {}
        yield said


def of_change(change: Change, now: float) -> Json:
    """A run's verdict that is another one now."""
    found = change.verdict
    return {
        **_head("verdict", change.run, b""),
        "time": now,
        "experiment": change.experiment,
        "state": found.state,
        "before": change.before or None,
        "reason": found.reason,
        "error": views.error(found.error),
        "ended": found.ended_at,
    }


def decoded(data: bytes) -> Any:
    """Plain values as a source encoded them; a mark where they cannot be read."""
    if not data:
        return None
    try:
        return wire.decode_plain(data)
    except wire.WireError as unreadable:
        return f"... unreadable: {unreadable}"


def _head(kind: str, run: str, source: bytes) -> Json:
    return {"kind": kind, "run": run, "source": source.hex() or None}


def _moment(moment: wire.Moment, source: bytes, asked: str) -> Json:
    number = moment.episode
    return {
        "episode": number,
        "trace_id": None if number is None else wire.trace_id(asked, source, number),
        "step": moment.step,
        "state": decoded(moment.state),
        "scores": moment.scores,
        "images": [
            {
                "name": image.name,
                "shape": list(image.shape),
                "dtype": image.dtype,
                "stride": image.stride,
            }
            for image in moment.images
        ],
    }


# --- by the kind of record ------------------------------------------------------------


def _source_opened(_: wire.SourceOpened, one: Source) -> Json:
    return views.source(one)


def _run_opened(record: wire.RunOpened, _: Source) -> Json:
    return {
        "experiment": record.experiment,
        "resume": record.resume,
        "config": record.config,
        "tags": record.tags,
        "facts": record.facts,
        "info": record.info,
        "launch": record.launch,
        "expected": {
            "episodes": record.expected_episodes,
            "steps": record.expected_steps,
            "epochs": record.expected_epochs,
        },
        "promise": record.promise,
    }


def _closed(record: wire.RunClosed | wire.SourceClosed, _: Source) -> Json:
    return {
        "ending": record.ending,
        "reason": record.reason,
        "error": views.error(record.error),
    }


def _episode_started(record: wire.EpisodeStarted, one: Source) -> Json:
    return {**views.open_episode(one, views.stands(record)), "seed": record.seed}


def _episode_ended(record: wire.EpisodeEnded, one: Source) -> Json:
    row = Row(0, record.run, 0.0, False, record.outcome, record)
    said = views.episode(row, one)
    return {name: value for name, value in said.items() if name not in _JOURNALS}


def _log(record: wire.LogLine, one: Source) -> Json:
    return views.log_line(record, one)


def _command_answered(record: wire.CommandAnswered, _: Source) -> Json:
    return {
        "command": record.command,
        "state": record.state,
        "detail": record.detail,
    }


_SAID: dict[type, Callable[[Any, Source], Json]] = {
    wire.SourceOpened: _source_opened,
    wire.RunOpened: _run_opened,
    wire.RunClosed: _closed,
    wire.SourceClosed: _closed,
    wire.EpisodeStarted: _episode_started,
    wire.EpisodeEnded: _episode_ended,
    wire.LogLine: _log,
    wire.CommandAnswered: _command_answered,
}
