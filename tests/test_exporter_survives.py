"""Whatever sources say, in whatever order: nothing breaks, and a restart knows it all.

Sources that lie, contradict themselves, die and come back are played against a writer
on a real journal. After each story all is read that can be read, and the journal is
replayed: the state has to be the same.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from experiment_hooks import wire
from exporter import checks
from tests.making import NOON, Teller
from tests.test_state import told
from tests.test_web import Bench

NUMBERS = st.one_of(
    st.integers(-1, 3), st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64 - 1])
)
FLOATS = st.one_of(
    st.floats(0, 100),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), -1.0, 1e300, NOON]),
)
WORDS = st.one_of(
    st.sampled_from(["", "eval", "train", "correct", "lost", "run", "a b", "ü", "__x"]),
    st.text(max_size=5),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, FLOATS, WORDS, st.binary(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(WORDS, inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = st.sampled_from(
    ["x", "y", "steps", "phases", "run_state", "x_total", "x_sum", "no name", ""]
)
LABELS = st.lists(
    st.sampled_from(["mode", "phase", "a", "le", "run", "b c", "__d"]), max_size=2
)
SPECS = st.builds(
    wire.MetricSpec,
    name=NAMES,
    type=st.sampled_from(["counter", "gauge", "histogram", "summary"]),
    labels=LABELS.map(tuple),
    merge=st.sampled_from(
        ["last", "sum", "max", "min", "mean", "per_source", "median"]
    ),
    buckets=st.lists(FLOATS, max_size=3).map(tuple),
    free=st.booleans(),
)
SERIES = st.builds(
    wire.SeriesSpec,
    metric=st.integers(-1, 4),
    values=st.lists(WORDS, max_size=2).map(tuple),
)
ERRORS = st.one_of(st.none(), st.builds(wire.ErrorInfo, WORDS, WORDS, WORDS))
ENDINGS = st.sampled_from(["completed", "failed", "stopped", "exploded", ""])
TOTALS = st.one_of(
    st.lists(FLOATS, max_size=8).map(wire.pack_totals), st.binary(max_size=9)
)
EPISODES = st.integers(0, 3)

RECORDS: dict[Any, dict[str, st.SearchStrategy[Any]]] = {
    wire.SourceOpened: {
        "role": st.sampled_from(["owner", "child", "shared", "ghost"]),
        "owner": st.sampled_from([b"", b"\x01" * 16, b"\x02" * 16]),
        "host": WORDS,
    },
    wire.RunOpened: {
        "experiment": WORDS,
        "config": VALUES,
        "tags": st.dictionaries(WORDS, VALUES, max_size=2),
        "info": st.dictionaries(WORDS, VALUES, max_size=2),
        "launch": st.dictionaries(
            st.sampled_from(["user", "git", "scheduler"]), VALUES, max_size=3
        ),
        "expected_steps": st.dictionaries(WORDS, NUMBERS, max_size=2),
        "promise": st.one_of(st.none(), FLOATS),
    },
    wire.RunClosed: {"ending": ENDINGS, "reason": WORDS, "error": ERRORS},
    wire.SourceClosed: {"ending": ENDINGS, "totals": TOTALS, "error": ERRORS},
    wire.Schema: {
        "first_metric": st.integers(-1, 4),
        "first_series": st.integers(-1, 4),
        "metrics": st.lists(SPECS, max_size=2).map(tuple),
        "series": st.lists(SERIES, max_size=3).map(tuple),
    },
    wire.EpisodeStarted: {"number": st.one_of(EPISODES, NUMBERS), "mode": WORDS},
    wire.EpisodeEnded: {
        "number": st.one_of(EPISODES, NUMBERS),
        "mode": WORDS,
        "started": FLOATS,
        "duration": FLOATS,
        "steps": NUMBERS,
        "outcome": WORDS,
        "success": st.one_of(st.none(), st.booleans()),
        "results": st.dictionaries(WORDS, FLOATS, max_size=3),
        "attributes": st.dictionaries(WORDS, VALUES, max_size=2),
        "error": ERRORS,
    },
    wire.LogLine: {
        "level": WORDS,
        "message": WORDS,
        "fields": st.dictionaries(WORDS, VALUES, max_size=2),
    },
    wire.CommandAnswered: {
        "command": st.sampled_from(["stop-1", "x"]),
        "state": st.sampled_from(["accepted", "failed", "done"]),
    },
    wire.GivenUp: {
        "ranges": st.lists(st.tuples(NUMBERS, NUMBERS), max_size=2).map(tuple)
    },
}
SOURCES = st.integers(1, 3)
RUNS = {1: "run", 2: "run", 3: "other"}


@st.composite
def records(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    kind = draw(st.sampled_from(list(RECORDS)))
    return kind, draw(st.fixed_dictionaries(RECORDS[kind]))


SAMPLES = st.fixed_dictionaries(
    {
        "number": st.integers(0, 5),
        "sent": st.just(NOON),
        "totals": TOTALS,
        "progress": FLOATS,
        "gap": FLOATS,
        "gaps": NUMBERS,
        "promise": st.one_of(st.none(), FLOATS),
        "announced": st.integers(-1, 0),
        "epochs": st.dictionaries(WORDS, NUMBERS, max_size=2),
        "dropped": st.dictionaries(WORDS, NUMBERS, max_size=2),
        "open": st.lists(
            st.builds(
                wire.OpenEpisode,
                number=st.one_of(EPISODES, NUMBERS),
                mode=WORDS,
                steps=NUMBERS,
                started=FLOATS,
                last=FLOATS,
            ),
            max_size=2,
        ).map(tuple),
    }
)
STEPS = st.one_of(
    st.tuples(st.just("record"), SOURCES, records()),
    st.tuples(st.just("record"), SOURCES, records()),
    st.tuples(st.just("sample"), SOURCES, SAMPLES),
    st.tuples(st.just("gone"), SOURCES, st.none()),
    st.tuples(st.just("tick"), SOURCES, st.sampled_from([0.5, 31.0, 70.0])),
    st.tuples(st.just("delete"), SOURCES, st.none()),
)


class Stage:
    """Plays a story, as ingest would hand it on."""

    def __init__(self, directory: Path) -> None:
        self.bench = Bench(directory / "journal.sqlite")
        self._path = directory / "journal.sqlite"
        self._ended: set[tuple[int, int]] = set()
        self._tellers = {n: Teller(n, RUNS[n]) for n in RUNS}

    def play(self, what: str, number: int, detail: Any) -> None:
        bench, teller = self.bench, self._tellers[number]
        if what == "record":
            kind, fields = detail
            if kind is wire.EpisodeEnded:
                end = (number, fields["number"])
                if end in self._ended:  # the second is refused, and kept nowhere
                    return
                self._ended.add(end)
            record = teller.make(kind, at=bench.now, **fields)
            if passes(checks.check_record, record):
                bench.arrive(teller, wire.decode_record(wire.encode(record)))
        elif what == "sample":
            found = wire.Sample(**detail)
            if passes(checks.check_sample, found):
                said = {key: detail[key] for key in detail if key not in ("sent",)}
                totals = wire.unpack_totals(said.pop("totals"))
                bench.sampled(teller, said.pop("number"), *totals, **said)
        elif what == "gone" and teller.id in bench.links:
            bench.gone(teller)
        elif what == "tick":
            bench.tick(detail)
        elif what == "delete":
            bench.writer.delete(teller.run)

    def read_all(self) -> None:
        """Metrics, lists and pages: none may fail, and all are what they say."""
        client = self.bench.client
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        text = client.get("/metrics", headers=accept).text
        assert text.endswith("# EOF\n")
        for _ in text_string_to_metric_families(client.get("/metrics").text):
            pass
        runs = client.get("/api/v1/runs")
        for run in json.loads(runs.data, parse_constant=pytest.fail)["runs"]:
            for path in ("", "/episodes", "/episodes?format=csv", "/commands"):
                answer = client.get(f"/api/v1/runs/{run['run']}{path}")
                assert answer.status_code == 200, answer.data

    def restart(self) -> None:
        now = self.bench.now
        self.bench.close()
        self.bench = Bench(self._path)
        self.bench.now = now
        with self.bench.state.lock:
            self.bench.state.fold_ended(now)


def passes(check: Callable[[Any], None], value: Any) -> bool:
    """Whether ingest would let it through."""
    try:
        check(value)
    except wire.MalformedError:
        return False
    return True


def comparable(stage: Stage) -> str:
    """What has to be the same after a restart.

    Which gauge was set last is not: the journal does not know when each was. Nor is
    progress that only a sample told which is not the newest, or of a closed source.
    """
    found = told(stage.bench.state, stage.bench.now)
    for run in stage.bench.state.runs.values():
        known = run.base.last.values()
        lasts = {f"{key[0]}{dict(key[1]) or ''}" for keys in known for key in keys}
        series = found[run.id]["series"]
        found[run.id]["series"] = {k: v for k, v in series.items() if k not in lasts}
        del found[run.id]["progress"]
    return "\n".join(lines(found))


def lines(value: Any, before: str = "") -> Iterator[str]:
    """A tree as sorted lines; NaN is like itself here."""
    if isinstance(value, dict):
        for key in sorted(value, key=repr):
            yield from lines(value[key], f"{before}/{key!r}")
    else:
        yield f"{before} = {value!r}"


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(STEPS, max_size=25))
@example(
    [
        ("record", 3, (wire.SourceOpened, {"role": "owner", "owner": b"", "host": ""})),
        ("record", 3, (wire.GivenUp, {"ranges": ((0, 2**63),)})),
        ("gone", 3, None),
        ("tick", 1, 31.0),
    ]
)
def test_nothing_that_sources_say_breaks_anything(
    story: list[tuple[str, int, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(Path(directory))
        try:
            for step in story:
                stage.play(*step)
            stage.bench.tick(1.0)
            assert stage.bench.writer.dropped["internal"] == 0
            assert stage.bench.writer.dropped["unwritable"] == 0
            assert stage.bench.writer.healthy
            stage.read_all()
            before = comparable(stage)
            stage.restart()
            assert stage.bench.writer.dropped["internal"] == 0
            assert comparable(stage) == before
            stage.read_all()
        finally:
            stage.bench.close()
