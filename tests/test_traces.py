"""Episodes become traces, and the traces arrive: against a real OTLP receiver."""

from __future__ import annotations

import dataclasses
import http.client
import json
import math
import shutil
import subprocess
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan

from experiment_hooks import wire
from exporter.traces import (
    Courier,
    Delivery,
    Endpoint,
    EpisodeTrace,
    open_transport,
    resource,
    send,
    spans,
)
from exporter.traces import courier as courier_module
from exporter.traces.over_grpc import target
from exporter.traces.over_http import explained
from tests import otlp_sink
from tests.otlp_sink import DEADLINE, GRPC, HTTP, OtlpSink, ReceivedSpan

SOURCE = bytes(range(16))
START = 1_700_000_000.0
NS = 1_000_000_000
RESOURCE = resource({}, "1.2.3")

both = pytest.mark.parametrize("protocol", [HTTP, GRPC])


def ended(**fields: Any) -> wire.EpisodeEnded:
    said: dict[str, Any] = {
        "run": "run-1", "source": SOURCE, "seq": 7, "time": START + 10, "number": 3,
        "mode": "eval", "started": START, "duration": 10.0, "steps": 100,
        "outcome": "correct",
    }  # fmt: skip
    return wire.EpisodeEnded(**{**said, **fields})


def trace_of(episode: wire.EpisodeEnded | None = None, **fields: Any) -> EpisodeTrace:
    said: dict[str, Any] = {
        "run": "run-1",
        "shown_run": "run-1",
        "experiment": "mugs",
        "episode": episode or ended(),
    }
    return EpisodeTrace(**{**said, **fields})


def drawn(trace: EpisodeTrace) -> list[ReceivedSpan]:
    """A trace as a receiver would read it."""
    request = encode_spans(spans(trace, RESOURCE))
    return list(otlp_sink.received(request))


def root_of(trace: EpisodeTrace) -> ReceivedSpan:
    return drawn(trace)[0]


def all_named(name: str, found: list[ReceivedSpan]) -> list[ReceivedSpan]:
    return [span for span in found if span.name == name]


def times(span: ReceivedSpan) -> tuple[float, float]:
    """A span's start and end in seconds from the episode's start."""
    message = span.span
    start = round(START * NS)
    return (
        (message.start_time_unix_nano - start) / NS,
        (message.end_time_unix_nano - start) / NS,
    )


# --- what a trace is -----------------------------------------------------------------


class TestIds:
    def test_they_are_these_for_ever(self) -> None:
        episode = ended(
            phases=(wire.PhaseSpan("matching", 0.0, 5.0),),
            sampled=(wire.StepSpan(42, 1.0, 0.5),),
        )
        root, phase, step = drawn(trace_of(episode))
        assert root.trace_id == "fb5a51a72e8d10f23a58ee400a67db02"
        assert root.span_id == "c58ae1d1235c4e96"
        assert phase.span_id == "17dbb2ab20e1a6d4"
        assert step.span_id == "49d47e85ec49d5f0"
        assert root_of(trace_of(episode, late=True)).span_id == "9a88b169f0f9b317"

    def test_they_follow_from_the_wire(self) -> None:
        trace = wire.trace_id("run-1", SOURCE, 3)
        episode = ended(
            phases=(wire.PhaseSpan("a", 0.0, 5.0), wire.PhaseSpan("b", 5.0, 5.0)),
            sampled=(wire.StepSpan(42, 1.0, 0.5),),
        )
        found = drawn(trace_of(episode))
        assert {span.trace_id for span in found} == {trace}
        assert [span.span_id for span in found] == [
            wire.span_id(trace, "episode"),
            wire.span_id(trace, "phase", 0),
            wire.span_id(trace, "phase", 1),
            wire.span_id(trace, "step", 42),
        ]

    def test_they_derive_from_the_run_as_the_source_knew_it(self) -> None:
        root = root_of(trace_of(run="run-1", shown_run="run-1-2"))
        assert root.trace_id == wire.trace_id("run-1", SOURCE, 3)
        assert root.attributes["experiment.run.id"] == "run-1-2"
        assert root.attributes["experiment.run.asked_id"] == "run-1"

    def test_a_trace_says_its_id_without_being_drawn(self) -> None:
        trace = trace_of()
        root = root_of(trace)
        assert (trace.trace_id, trace.root_id) == (root.trace_id, root.span_id)


class TestRoot:
    def test_it_says_all_that_is_known_of_the_episode(self) -> None:
        episode = ended(
            epoch=2, index=5, seed=11, target="mug", success=True,
            results={"return": 12.5}, attributes={"pose": [1, 2], "note": "fine"},
            scores={"mug": 0.9},
        )  # fmt: skip
        trace = trace_of(episode, host="node7", pid=77, source_name="worker-0")
        root = root_of(trace)
        assert root.name == "episode"
        assert root.parent_id == ""
        assert root.span.kind == Span.SPAN_KIND_INTERNAL
        assert root.attributes == {
            "experiment.run.id": "run-1",
            "experiment.name": "mugs",
            "experiment.mode": "eval",
            "experiment.epoch": 2,
            "experiment.source.id": SOURCE.hex(),
            "experiment.source.name": "worker-0",
            "episode.index": 5,
            "episode.number": 3,
            "episode.seed": 11,
            "episode.target": "mug",
            "episode.outcome": "correct",
            "episode.success": True,
            "episode.steps": 100,
            "episode.score.mug": 0.9,
            "episode.result.return": 12.5,
            "episode.attribute.pose": "[1, 2]",
            "episode.attribute.note": "fine",
            "host.name": "node7",
            "process.pid": 77,
        }

    def test_what_was_not_said_is_not_there(self) -> None:
        names = set(root_of(trace_of()).attributes)
        assert names == {
            "experiment.run.id", "experiment.name", "experiment.mode",
            "experiment.source.id", "episode.number", "episode.outcome",
            "episode.steps",
        }  # fmt: skip

    def test_zero_and_false_are_said(self) -> None:
        root = root_of(trace_of(ended(epoch=0, index=0, seed=0, success=False)))
        assert root.attributes["experiment.epoch"] == 0
        assert root.attributes["episode.index"] == 0
        assert root.attributes["episode.seed"] == 0
        assert root.attributes["episode.success"] is False

    def test_its_resource_and_scope_say_who_sends(self) -> None:
        root = root_of(trace_of())
        assert root.resource["service.name"] == "episight"
        assert root.resource["service.version"] == "1.2.3"
        assert root.resource["service.instance.id"]
        assert (root.scope, root.scope_version) == ("episight", "1.2.3")

    def test_it_links_to_the_runs_episode_before(self) -> None:
        previous = wire.trace_id("run-1", SOURCE, 2)
        (link,) = root_of(trace_of(previous=previous)).span.links
        assert link.trace_id.hex() == previous
        assert link.span_id.hex() == wire.span_id(previous, "episode")

    def test_without_one_before_it_links_to_nothing(self) -> None:
        assert not root_of(trace_of()).span.links

    def test_times_are_moved_to_the_exporters_clock(self) -> None:
        assert times(root_of(trace_of(skew=-2.5))) == (-2.5, 7.5)


class TestStatus:
    def test_a_wrong_answer_is_no_error(self) -> None:
        root = root_of(trace_of(ended(outcome="confused", success=False)))
        assert root.span.status.code == 0
        assert "error.type" not in root.attributes

    def test_a_right_one_is_no_ok(self) -> None:
        assert root_of(trace_of(ended(success=True))).span.status.code == 0

    def test_an_exception_is_an_error_and_an_event(self) -> None:
        error = wire.ErrorInfo("ValueError", "too far", "Traceback ...\nValueError")
        root = root_of(trace_of(ended(outcome="error", error=error)))
        assert root.span.status.code == 2
        assert root.span.status.message == "ValueError: too far"
        assert root.attributes["error.type"] == "ValueError"
        assert root.attributes["episode.outcome"] == "error"
        ((name, at, attributes),) = root.events
        assert (name, at) == ("exception", root.span.end_time_unix_nano)
        assert attributes == {
            "exception.type": "ValueError",
            "exception.message": "too far",
            "exception.stacktrace": "Traceback ...\nValueError",
            "error.type": "ValueError",
        }

    def test_a_lost_source_is_an_error_without_an_outcome(self) -> None:
        root = root_of(trace_of(ended(outcome="", success=True), lost=True))
        assert root.span.status.code == 2
        assert root.span.status.message == "source_lost"
        assert root.attributes["episode.reason"] == "source_lost"
        assert root.attributes["error.type"] == "source_lost"
        assert "episode.outcome" not in root.attributes
        assert "episode.success" not in root.attributes
        assert root.span_id == wire.span_id(root.trace_id, "episode")

    def test_a_late_end_is_a_further_root_in_the_same_trace(self) -> None:
        episode = ended(phases=(wire.PhaseSpan("a", 0.0, 5.0),))
        lost = drawn(trace_of(episode, lost=True))
        late = drawn(trace_of(episode, late=True))
        assert late[0].trace_id == lost[0].trace_id
        assert late[0].name == "episode"
        assert late[0].parent_id == ""
        assert late[0].attributes["episode.late"] is True
        assert late[0].attributes["episode.outcome"] == "correct"
        assert late[0].span.status.code == 0
        assert late[0].span_id == wire.span_id(late[0].trace_id, "late")
        assert late[1].parent_id == late[0].span_id
        assert not {span.span_id for span in lost} & {span.span_id for span in late}


class TestChildren:
    def test_phases_are_children_of_the_root(self) -> None:
        episode = ended(
            phases=(
                wire.PhaseSpan("matching", 0.0, 4.0, 40),
                wire.PhaseSpan("exploration", 4.0, 6.0, 60),
            )
        )
        root, matching, exploration = drawn(trace_of(episode))
        assert matching.parent_id == exploration.parent_id == root.span_id
        assert (matching.name, times(matching)) == ("matching", (0.0, 4.0))
        assert (exploration.name, times(exploration)) == ("exploration", (4.0, 10.0))
        assert matching.attributes == {
            "experiment.phase": "matching",
            "experiment.phase.steps": 40,
        }
        assert matching.span.kind == Span.SPAN_KIND_INTERNAL

    def test_a_phase_in_a_phase_is_its_child(self) -> None:
        # In the order in which they ended, as the hooks say them.
        episode = ended(
            phases=(
                wire.PhaseSpan("inner", 1.0, 1.0),
                wire.PhaseSpan("same", 0.0, 5.0),
                wire.PhaseSpan("outer", 0.0, 5.0),
                wire.PhaseSpan("after", 5.0, 1.0),
            )
        )
        found = {span.name: span for span in drawn(trace_of(episode))}
        assert found["inner"].parent_id == found["same"].span_id
        assert found["same"].parent_id == found["outer"].span_id
        assert found["outer"].parent_id == found["episode"].span_id
        assert found["after"].parent_id == found["episode"].span_id

    def test_a_step_is_a_child_of_the_phase_it_lies_in(self) -> None:
        episode = ended(
            phases=(
                wire.PhaseSpan("inner", 1.0, 1.0),
                wire.PhaseSpan("outer", 0.5, 4.5),
            ),
            sampled=(
                wire.StepSpan(1, 0.0, 0.25),
                wire.StepSpan(2, 1.25, 0.5),
                wire.StepSpan(3, 3.0, 0.5),
                wire.StepSpan(4, 8.0, 0.5),
            ),
        )
        found = drawn(trace_of(episode))
        parents = {span.span_id: span.name for span in found}
        steps = all_named("step", found)
        assert [span.attributes["episode.step"] for span in steps] == [1, 2, 3, 4]
        assert [parents[span.parent_id] for span in steps] == [
            "episode", "inner", "outer", "episode",
        ]  # fmt: skip
        assert times(steps[1]) == (1.25, 1.75)

    def test_a_phases_first_step_is_its_own_though_it_began_before(self) -> None:
        episode = ended(
            phases=(wire.PhaseSpan("a", 0.0, 2.0), wire.PhaseSpan("b", 2.1, 2.0)),
            sampled=(wire.StepSpan(9, 1.95, 0.55),),
        )
        found = drawn(trace_of(episode))
        (phase,) = all_named("b", found)
        (step,) = all_named("step", found)
        assert step.parent_id == phase.span_id
        assert times(step) == (2.1, 2.5)

    def test_a_step_says_its_highest_scores(self) -> None:
        scores = {f"object{n}": float(n) for n in range(20)}
        scores["odd"] = math.nan
        episode = ended(sampled=(wire.StepSpan(1, 0.0, 1.0, scores),))
        (step,) = all_named("step", drawn(trace_of(episode)))
        assert step.attributes == {
            "episode.step": 1,
            **{f"episode.score.object{n}": float(n) for n in range(12, 20)},
        }

    def test_children_never_leave_their_parent(self) -> None:
        episode = ended(
            duration=5.0,
            phases=(
                wire.PhaseSpan("long", 1.0, 100.0),
                wire.PhaseSpan("early", -3.0, 1.0),
            ),
            sampled=(wire.StepSpan(1, -1.0, 50.0), wire.StepSpan(2, 90.0, 1.0)),
        )
        found = drawn(trace_of(episode))
        by_id = {span.span_id: span.span for span in found}
        for span in found[1:]:
            parent = by_id[span.parent_id]
            assert parent.start_time_unix_nano <= span.span.start_time_unix_nano
            assert span.span.start_time_unix_nano <= span.span.end_time_unix_nano
            assert span.span.end_time_unix_nano <= parent.end_time_unix_nano

    def test_events_of_the_root_come_at_their_time(self) -> None:
        event = wire.Event("hypothesis changed", 2.5, {"to": "mug", "all": {"a": 1}})
        root = root_of(trace_of(ended(events=(event,))))
        ((name, at, attributes),) = root.events
        assert name == "hypothesis changed"
        assert at == round((START + 2.5) * NS)
        assert attributes == {"to": "mug", "all": '{"a": 1}'}

    def test_a_phase_without_a_name_has_one_all_the_same(self) -> None:
        found = drawn(trace_of(ended(phases=(wire.PhaseSpan("", 0.0, 1.0),))))
        assert found[1].name == "phase"


class TestBounds:
    def test_a_trace_stays_under_2000_spans_and_says_what_it_leaves_out(self) -> None:
        episode = ended(
            phases=tuple(wire.PhaseSpan("p", n * 0.01, 0.01) for n in range(900)),
            sampled=tuple(wire.StepSpan(n, n * 0.001, 0.001) for n in range(5000)),
            omitted={"phases": 7, "events": 2, "results": 9},
        )
        found = drawn(trace_of(episode))
        assert 1900 < len(found) < 2000
        assert len(all_named("p", found)) == 900
        root = found[0]
        assert root.attributes["episode.omitted_spans"] == 5901 - len(found) + 7
        assert root.attributes["episode.omitted_events"] == 2
        assert len({span.span_id for span in found}) == len(found)
        steps = [span.attributes["episode.step"] for span in all_named("step", found)]
        assert steps[0] == 0
        assert steps[-1] > 4990

    def test_phases_alone_may_be_too_many(self) -> None:
        many = tuple(wire.PhaseSpan("p", n * 0.001, 0.001) for n in range(3000))
        found = drawn(trace_of(ended(phases=many)))
        assert len(found) < 2000
        assert found[0].attributes["episode.omitted_spans"] == 3001 - len(found)

    def test_a_step_said_twice_is_one_span(self) -> None:
        twice = (wire.StepSpan(1, 0.0, 0.1), wire.StepSpan(1, 0.1, 0.1))
        found = drawn(trace_of(ended(sampled=twice)))
        assert len(all_named("step", found)) == 1
        assert found[0].attributes["episode.omitted_spans"] == 1

    def test_nothing_left_out_is_not_mentioned(self) -> None:
        names = root_of(trace_of(ended(sampled=(wire.StepSpan(1, 0.0, 1.0),))))
        assert not [name for name in names.attributes if "omitted" in name]

    def test_an_attribute_stays_below_2_kb(self) -> None:
        error = wire.ErrorInfo("E" * 5000, "m" * 5000, "begin" + "x" * 9000 + "the end")
        episode = ended(
            target="t" * 9000,
            attributes={"text": "ä" * 5000, "deep": {"k": ["v" * 3000]}},
            events=(wire.Event("e", 0.0, {"a": "y" * 5000}),),
            error=error,
        )
        trace = trace_of(episode, host="h" * 9000, shown_run="r" * 9000)
        root = root_of(trace)
        texts = {**root.attributes}
        for _, _, attributes in root.events:
            texts.update(attributes)
        assert max(len(str(text).encode()) for text in texts.values()) < 2048
        assert texts["exception.stacktrace"].endswith("the end")
        assert "(10000 bytes)" in texts["episode.attribute.text"]
        assert len(root.span.status.message) <= 500

    def test_too_many_attributes_are_counted_where_otlp_counts_them(self) -> None:
        attributes = {f"a{n}": n for n in range(100)}
        root = root_of(trace_of(ended(attributes=attributes)))
        kept = [n for n in root.attributes if n.startswith("episode.attribute.")]
        assert len(kept) == 64
        assert root.span.dropped_attributes_count == 36

    def test_too_many_events_are_counted_where_otlp_counts_them(self) -> None:
        events = tuple(wire.Event(f"e{n}", n * 0.01) for n in range(200))
        root = root_of(trace_of(ended(events=events)))
        assert [root.events[0][0], root.events[-1][0]] == ["e72", "e199"]
        assert root.span.dropped_events_count == 72

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (True, True),
            (3, 3),
            (2.5, 2.5),
            ("text", "text"),
            (2**63, str(2**63)),
            (-(2**63), -(2**63)),
            (math.inf, math.inf),
            (None, "null"),
            ([1, "a", None], '[1, "a", null]'),
            ({"a": {"b": [1.5]}}, '{"a": {"b": [1.5]}}'),
            ([math.nan], "[NaN]"),
            ("broken \ud800", "broken ?"),
            (b"bytes", "\"b'bytes'\""),
            ({b"key": 1}, "{b'key': 1}"),
        ],
    )
    def test_any_plain_value_becomes_an_attribute(self, value: Any, shown: Any) -> None:
        root = root_of(trace_of(ended(attributes={"x": value})))
        assert root.attributes["episode.attribute.x"] == shown

    def test_a_value_nested_without_end_becomes_one_too(self) -> None:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        root = root_of(trace_of(ended(attributes={"x": value})))
        assert root.attributes["episode.attribute.x"] == "(cannot be shown)"

    @pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e300, -1e300])
    def test_times_that_are_none_are_drawn_all_the_same(self, odd: float) -> None:
        episode = ended(
            started=odd,
            duration=odd,
            phases=(wire.PhaseSpan("p", odd, odd), wire.PhaseSpan("q", 0.0, odd)),
            sampled=(wire.StepSpan(1, odd, odd), wire.StepSpan(2, 0.0, 1.0)),
            events=(wire.Event("e", odd),),
            results={"r": odd},
        )
        for span in drawn(trace_of(episode, skew=odd)):
            assert span.span.start_time_unix_nano <= span.span.end_time_unix_nano


# --- where it goes -------------------------------------------------------------------


TRACES = "OTEL_EXPORTER_OTLP_TRACES_"
GENERAL = "OTEL_EXPORTER_OTLP_"


def endpoint_of(environ: dict[str, str], given: str | None = None) -> Endpoint:
    endpoint = Endpoint.from_environment(environ, given)
    assert endpoint is not None
    return endpoint


class TestEndpoint:
    @pytest.mark.parametrize(
        ("environ", "url"),
        [
            ({GENERAL + "ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
            ({GENERAL + "ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
            ({GENERAL + "ENDPOINT": "https://c/otlp/"}, "https://c/otlp/v1/traces"),
            ({GENERAL + "ENDPOINT": "http://c/a?key=1"}, "http://c/a/v1/traces?key=1"),
            ({TRACES + "ENDPOINT": "http://c:4318/own"}, "http://c:4318/own"),
            ({TRACES + "ENDPOINT": "http://c:4318"}, "http://c:4318/"),
            ({TRACES + "ENDPOINT": "http://[::1]:4318/x"}, "http://[::1]:4318/x"),
            (
                {TRACES + "ENDPOINT": "http://a/t", GENERAL + "ENDPOINT": "http://b"},
                "http://a/t",
            ),
            (
                {TRACES + "ENDPOINT": " ", GENERAL + "ENDPOINT": "http://b"},
                "http://b/v1/traces",
            ),
            (
                {GENERAL + "ENDPOINT": "http://c:4317", GENERAL + "PROTOCOL": "grpc"},
                "http://c:4317",
            ),
            (
                {GENERAL + "ENDPOINT": "c:4317", GENERAL + "PROTOCOL": "grpc"},
                "c:4317",
            ),
        ],
    )
    def test_variables_name_it(self, environ: dict[str, str], url: str) -> None:
        assert endpoint_of(environ).url == url

    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {GENERAL + "ENDPOINT": ""},
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"},
            {GENERAL + "ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "True"},
            {GENERAL + "ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"},
            {GENERAL + "ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "console"},
            {GENERAL + "PROTOCOL": "http/json"},
        ],
    )
    def test_without_one_there_is_none(self, environ: dict[str, str]) -> None:
        assert Endpoint.from_environment(environ, None) is None
        assert Endpoint.from_environment(environ, "") is None

    @pytest.mark.parametrize(
        "environ",
        [
            {"OTEL_SDK_DISABLED": "false"},
            {"OTEL_SDK_DISABLED": "1"},
            {"OTEL_SDK_DISABLED": ""},
            {"OTEL_TRACES_EXPORTER": "console, otlp"},
            {"OTEL_TRACES_EXPORTER": ""},
        ],
    )
    def test_only_true_disables_it(self, environ: dict[str, str]) -> None:
        found = Endpoint.from_environment({GENERAL + "ENDPOINT": "http://c", **environ})
        assert found is not None

    @pytest.mark.parametrize(
        ("given", "url"),
        [
            ("http://given:4318", "http://given:4318/v1/traces"),
            ("http://given:4318/", "http://given:4318/v1/traces"),
            ("http://given:4318/own/path", "http://given:4318/own/path"),
        ],
    )
    def test_the_configuration_wins(self, given: str, url: str) -> None:
        environ = {
            GENERAL + "ENDPOINT": "http://c:4318",
            "OTEL_SDK_DISABLED": "true",
            "OTEL_TRACES_EXPORTER": "none",
            GENERAL + "HEADERS": "a=b",
        }
        endpoint = endpoint_of(environ, given)
        assert endpoint.url == url
        assert endpoint.headers == (("a", "b"),)

    def test_the_configuration_can_turn_traces_off(self) -> None:
        environ = {GENERAL + "ENDPOINT": "http://c:4318"}
        assert Endpoint.from_environment(environ, "none") is None

    def test_defaults_are_those_of_the_specification(self) -> None:
        endpoint = endpoint_of({GENERAL + "ENDPOINT": "http://c:4318"})
        assert endpoint == Endpoint("http://c:4318/v1/traces")
        assert endpoint.protocol == HTTP
        assert endpoint.timeout == 10.0

    def test_every_setting_is_read_and_the_one_for_traces_wins(self) -> None:
        environ = {
            GENERAL + "ENDPOINT": "https://c:4317",
            GENERAL + "PROTOCOL": "http/protobuf",
            TRACES + "PROTOCOL": "grpc",
            GENERAL + "HEADERS": "not=this",
            TRACES + "HEADERS": "Authorization=Basic%20abc%3D, x-scope = a%2Cb ,,",
            GENERAL + "TIMEOUT": "1000",
            TRACES + "TIMEOUT": "2500",
            GENERAL + "COMPRESSION": "gzip",
            GENERAL + "CERTIFICATE": "ca.pem",
            GENERAL + "CLIENT_KEY": "key.pem",
            GENERAL + "CLIENT_CERTIFICATE": "client.pem",
            GENERAL + "INSECURE": "true",
        }
        assert endpoint_of(environ) == Endpoint(
            url="https://c:4317",
            protocol=GRPC,
            headers=(("authorization", "Basic abc="), ("x-scope", "a,b")),
            timeout=2.5,
            gzip=True,
            certificate="ca.pem",
            client_key="key.pem",
            client_certificate="client.pem",
            insecure=True,
        )

    @pytest.mark.parametrize(
        ("milliseconds", "seconds"),
        [("10", 1.0), ("2500", 2.5), ("600000", 60.0), ("0", 60.0), ("", 10.0)],
    )
    def test_a_timeout_is_milliseconds_and_bounded(
        self, milliseconds: str, seconds: float
    ) -> None:
        environ = {
            GENERAL + "ENDPOINT": "http://c",
            GENERAL + "TIMEOUT": milliseconds,
        }
        assert endpoint_of(environ).timeout == seconds

    @pytest.mark.parametrize(
        ("name", "value", "advice"),
        [
            ("ENDPOINT", "localhost:4318", "http://host:4318"),
            ("ENDPOINT", "http://", "http://host:4318"),
            ("ENDPOINT", "http://c:99999", "http://host:4318"),
            ("ENDPOINT", "ftp://c", "http://host:4318"),
            ("ENDPOINT", "http://me:secret@c:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("PROTOCOL", "http/json", "http/protobuf or grpc"),
            ("COMPRESSION", "zstd", "gzip"),
            ("TIMEOUT", "10s", "milliseconds"),
            ("TIMEOUT", "-1", "milliseconds"),
            ("TIMEOUT", "nan", "milliseconds"),
            ("HEADERS", "secret", "name=value"),
            ("HEADERS", "a=1,b c=secret", "name=value"),
            ("HEADERS", "a=secret%0d%0ab", "printable"),
            ("CLIENT_KEY", "key.pem", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
        ],
    )
    def test_a_bad_value_is_told_with_what_to_change(
        self, name: str, value: str, advice: str
    ) -> None:
        environ = {GENERAL + "ENDPOINT": "http://c:4318", GENERAL + name: value}
        with pytest.raises(ValueError, match=GENERAL + name) as raised:
            Endpoint.from_environment(environ, None)
        assert advice in str(raised.value)
        assert "secret" not in str(raised.value)

    def test_a_token_is_not_shown(self) -> None:
        environ = {
            TRACES + "ENDPOINT": "http://c/v1/traces?key=token",
            GENERAL + "HEADERS": "authorization=secret",
        }
        endpoint = endpoint_of(environ)
        assert "secret" not in repr(endpoint)
        assert endpoint.shown == "http://c/v1/traces"

    @pytest.mark.parametrize("protocol", [HTTP, GRPC])
    def test_a_missing_certificate_is_told_at_once(self, protocol: str) -> None:
        missing = Endpoint("https://c:1/", protocol=protocol, certificate="/no/ca.pem")
        with pytest.raises(ValueError, match=r"OTEL_EXPORTER_OTLP_CERTIFICATE.*no/ca"):
            open_transport(missing)


class TestResource:
    def test_it_is_described_by_the_environment(self) -> None:
        environ = {
            "OTEL_RESOURCE_ATTRIBUTES": "team=a%20b, service.name=x,service.version=9",
            "OTEL_SERVICE_NAME": "mine",
        }
        said = resource(environ, "1.0").attributes
        assert said["service.name"] == "mine"
        assert said["service.version"] == "9"
        assert said["team"] == "a b"

    def test_it_has_a_name_and_an_identity_of_its_own(self) -> None:
        said = resource({}, "1.0").attributes
        assert said["service.name"] == "episight"
        assert said["service.instance.id"]
        given = resource({}, "1.0", instance="here").attributes
        assert given["service.instance.id"] == "here"

    def test_what_is_no_attribute_is_left_out(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        said = resource({"OTEL_RESOURCE_ATTRIBUTES": "nothing,a=1"}, "1.0").attributes
        assert said["a"] == "1"
        assert "nothing" in caplog.text


# --- one try -------------------------------------------------------------------------


@pytest.fixture
def sink_of() -> Iterator[Callable[..., OtlpSink]]:
    made: list[OtlpSink] = []

    def make(protocol: str = HTTP, **options: Any) -> OtlpSink:
        made.append(OtlpSink(protocol, **options))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def deliver(
    sink: OtlpSink, trace: EpisodeTrace | None = None, **options: Any
) -> Delivery:
    """Send one trace, once; ``options`` are the endpoint's."""
    endpoint = dataclasses.replace(endpoint_of(sink.environ), **options)
    transport = open_transport(endpoint)
    try:
        return send(transport, spans(trace or trace_of(), RESOURCE))
    finally:
        transport.close()


Sinks = Callable[..., OtlpSink]


class TestOneTry:
    @both
    def test_a_trace_arrives_as_it_was_drawn(
        self, protocol: str, sink_of: Sinks
    ) -> None:
        sink = sink_of(protocol)
        trace = trace_of(ended(phases=(wire.PhaseSpan("a", 0.0, 5.0),)))
        assert deliver(sink, trace) == Delivery("delivered")
        assert [span.span for span in sink.spans] == [
            span.span for span in drawn(trace)
        ]
        assert sink.spans[0].resource["service.name"] == "episight"

    def test_it_is_posted_to_the_official_path(self, sink_of: Sinks) -> None:
        sink = sink_of(HTTP)
        deliver(sink)
        (request,) = sink.requests
        assert request.path == "/v1/traces"
        assert request.headers["content-type"] == "application/x-protobuf"
        assert request.headers["user-agent"] == "episight"

    def test_a_query_is_kept(self, sink_of: Sinks) -> None:
        sink = sink_of(HTTP)
        deliver(sink, url=sink.url + "/own?key=1")
        assert sink.requests[0].path == "/own?key=1"

    @both
    def test_headers_go_along(self, protocol: str, sink_of: Sinks) -> None:
        sink = sink_of(protocol)
        deliver(sink, headers=(("authorization", "Bearer x"), ("x-scope", "a,b")))
        headers = sink.requests[0].headers
        assert (headers["authorization"], headers["x-scope"]) == ("Bearer x", "a,b")

    @both
    def test_it_may_be_compressed(self, protocol: str, sink_of: Sinks) -> None:
        sink = sink_of(protocol)
        assert deliver(sink, gzip=True).kind == "delivered"
        assert len(sink.spans) == 1
        assert sink.requests[0].gzipped == (protocol == HTTP)  # gRPC hides it

    @both
    def test_a_partial_success_is_told(self, protocol: str, sink_of: Sinks) -> None:
        sink = sink_of(protocol)
        sink.answer(otlp_sink.partial(2, "too\nold"))
        assert deliver(sink) == Delivery("partial", "too old", rejected=2)

    @both
    def test_a_warning_is_a_yes(self, protocol: str, sink_of: Sinks) -> None:
        sink = sink_of(protocol)
        sink.answer(otlp_sink.partial(0, "soon deprecated"))
        assert deliver(sink) == Delivery("delivered", "soon deprecated")

    @both
    def test_a_yes_that_cannot_be_read_is_one(
        self, protocol: str, sink_of: Sinks
    ) -> None:
        sink = sink_of(protocol)
        sink.answer(otlp_sink.garbage())
        delivery = deliver(sink)
        assert delivery.kind == "delivered"
        assert "no OTLP" in delivery.message

    @both
    def test_too_many_requests_say_when_to_come_again(
        self, protocol: str, sink_of: Sinks
    ) -> None:
        sink = sink_of(protocol)
        sink.answer(otlp_sink.failure(429, "slow down", retry_after=7))
        delivery = deliver(sink)
        assert (delivery.kind, delivery.retry_after) == ("retryable", 7.0)
        assert "slow down" in delivery.message

    def test_a_retry_delay_has_fractions(self, sink_of: Sinks) -> None:
        sink = sink_of(GRPC)
        sink.answer(otlp_sink.failure(503, retry_after=1.25))
        assert deliver(sink).retry_after == 1.25

    def test_retry_after_may_be_a_date(self, sink_of: Sinks) -> None:
        sink = sink_of(HTTP)
        date = datetime.now(timezone.utc) + timedelta(hours=1)
        past = date - timedelta(hours=2)
        for when in (date, past):
            text = format_datetime(when, usegmt=True)
            sink.answer(otlp_sink.failure(503, retry_after=text))
        delay = deliver(sink).retry_after
        assert delay is not None
        assert 3000 < delay <= 3600
        assert deliver(sink).retry_after == 0.0

    @pytest.mark.parametrize("text", ["", "soon", "-5", "1e9", "٣"])
    def test_a_retry_after_that_is_none_is_none(
        self, text: str, sink_of: Sinks
    ) -> None:
        sink = sink_of(HTTP)
        sink.answer(otlp_sink.failure(503, retry_after=text.encode().decode("latin-1")))
        assert deliver(sink).retry_after is None

    @both
    def test_unavailable_without_a_word_is_retryable(
        self, protocol: str, sink_of: Sinks
    ) -> None:
        sink = sink_of(protocol)
        sink.answer(otlp_sink.failure(503))
        delivery = deliver(sink)
        assert (delivery.kind, delivery.retry_after) == ("retryable", None)

    @both
    @pytest.mark.parametrize("status", [400, 413, 500])
    def test_refused_data_are_refused_for_good(
        self, protocol: str, status: int, sink_of: Sinks
    ) -> None:
        sink = sink_of(protocol)
        sink.answer(otlp_sink.failure(status, "no such thing"))
        delivery = deliver(sink)
        assert delivery.kind == "permanent"
        assert "no such thing" in delivery.message

    @both
    @pytest.mark.parametrize("status", [401, 404])
    def test_a_mistake_of_ours_waits_until_it_is_mended(
        self, protocol: str, status: int, sink_of: Sinks
    ) -> None:
        sink = sink_of(protocol)
        sink.answer(otlp_sink.failure(status))
        delivery = deliver(sink)
        assert (delivery.kind, delivery.retry_after) == ("retryable", 60.0)
        assert "check" in delivery.message

    def test_a_redirect_is_not_followed(self, sink_of: Sinks) -> None:
        sink = sink_of(HTTP)
        sink.answer(otlp_sink.failure(302))
        assert deliver(sink).kind == "retryable"
        assert len(sink.requests) == 1

    def test_a_web_page_is_no_receiver(self, sink_of: Sinks) -> None:
        sink = sink_of(HTTP)
        sink.answer(otlp_sink.page())
        delivery = deliver(sink)
        assert delivery.kind == "retryable"
        assert "no OTLP receiver" in delivery.message

    @both
    def test_no_answer_ends_with_the_timeout(
        self, protocol: str, sink_of: Sinks
    ) -> None:
        sink = sink_of(protocol)
        sink.answer(otlp_sink.hang())
        delivery = deliver(sink, timeout=0.2)
        assert delivery.kind == "retryable"
        assert "no answer within 0.2 s" in delivery.message

    def test_an_answer_without_an_end_ends_with_the_timeout(
        self, sink_of: Sinks
    ) -> None:
        sink = sink_of(HTTP)
        sink.answer(otlp_sink.drip())
        delivery = deliver(sink, timeout=0.3)
        assert delivery.kind == "retryable"
        assert "no answer within 0.3 s" in delivery.message

    def test_an_answer_in_another_language_is_retryable(self, sink_of: Sinks) -> None:
        sink = sink_of(HTTP)
        sink.answer(otlp_sink.noise())
        assert deliver(sink).kind == "retryable"

    @both
    def test_nobody_there_is_retryable(self, protocol: str, sink_of: Sinks) -> None:
        sink = sink_of(protocol)
        sink.close()
        assert deliver(sink).kind == "retryable"

    @pytest.mark.parametrize("spoken", [HTTP, GRPC])
    def test_the_wrong_protocol_is_retryable(self, spoken: str, sink_of: Sinks) -> None:
        sink = sink_of(GRPC if spoken == HTTP else HTTP)
        assert deliver(sink, protocol=spoken, timeout=2.0).kind == "retryable"

    def test_http_to_the_port_of_grpc_is_explained(self) -> None:
        no_http = http.client.BadStatusLine("?")
        assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in explained(4317, no_http)
        assert explained(4318, no_http) == ""
        assert explained(4317, ConnectionRefusedError()) == ""

    @pytest.mark.parametrize(
        ("url", "insecure", "place", "secure"),
        [
            ("http://c:4317", False, "c:4317", False),
            ("https://c:4317", True, "c:4317", True),
            ("https://c/ignored", False, "c:443", True),
            ("HTTP://c", False, "c:80", False),
            ("http://[::1]:4317", False, "[::1]:4317", False),
            ("c:4317", False, "c:4317", True),
            ("c:4317", True, "c:4317", False),
            ("unix:/run/c.sock", True, "unix:/run/c.sock", False),
        ],
    )
    def test_grpc_is_told_where_to_and_how(
        self, url: str, insecure: bool, place: str, secure: bool
    ) -> None:
        endpoint = Endpoint(url, protocol=GRPC, insecure=insecure)
        assert target(endpoint) == (place, secure)

    def test_grpc_takes_a_host_and_port(self, sink_of: Sinks) -> None:
        sink = sink_of(GRPC)
        url = f"127.0.0.1:{sink.port}"
        assert deliver(sink, url=url, insecure=True).kind == "delivered"

    @both
    def test_after_close_nothing_is_sent(self, protocol: str, sink_of: Sinks) -> None:
        sink = sink_of(protocol)
        transport = open_transport(endpoint_of(sink.environ))
        transport.close()
        transport.close()
        assert send(transport, spans(trace_of())).kind == "retryable"
        assert not sink.requests

    @both
    def test_the_endpoint_of_the_environment_is_used(
        self, protocol: str, sink_of: Sinks
    ) -> None:
        sink = sink_of(protocol)
        transport = open_transport(endpoint_of(sink.environ))
        assert send(transport, spans(trace_of(), RESOURCE)).kind == "delivered"
        transport.close()
        assert sink.spans


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Files of a certificate for 127.0.0.1, good for both sides, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    chain, key = str(folder / "chain.pem"), str(folder / "key.pem")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", chain],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return chain, key


@both
class TestTls:
    def test_a_trusted_receiver_gets_traces(
        self, protocol: str, sink_of: Sinks, certificate: tuple[str, str]
    ) -> None:
        sink = sink_of(protocol, certificate=certificate)
        assert deliver(sink, certificate=certificate[0]).kind == "delivered"
        assert len(sink.spans) == 1

    def test_one_that_is_not_trusted_gets_none(
        self, protocol: str, sink_of: Sinks, certificate: tuple[str, str]
    ) -> None:
        sink = sink_of(protocol, certificate=certificate)
        assert deliver(sink, timeout=5.0).kind == "retryable"
        assert not sink.requests

    def test_a_receiver_may_ask_who_comes(
        self, protocol: str, sink_of: Sinks, certificate: tuple[str, str]
    ) -> None:
        chain, key = certificate
        sink = sink_of(protocol, certificate=certificate, client_ca=chain)
        assert deliver(sink, certificate=chain, timeout=5.0).kind == "retryable"
        known = {"certificate": chain, "client_certificate": chain, "client_key": key}
        assert deliver(sink, None, **known).kind == "delivered"

    def test_no_answer_ends_with_the_timeout(
        self, protocol: str, sink_of: Sinks, certificate: tuple[str, str]
    ) -> None:
        sink = sink_of(protocol, certificate=certificate)
        sink.answer(otlp_sink.hang())
        delivery = deliver(sink, certificate=certificate[0], timeout=1.0)
        assert delivery.kind == "retryable"


# --- the courier ---------------------------------------------------------------------


class Outbox:
    """What the journal has to offer: episodes by key, until they are done."""

    def __init__(self, *traces: EpisodeTrace) -> None:
        self.changed = threading.Condition()
        self.waiting: dict[int, EpisodeTrace] = {}
        self.settled: list[int] = []
        self.asked: list[int] = []
        self.broken: Exception | None = None
        self.put(*traces)

    def put(self, *traces: EpisodeTrace) -> None:
        with self.changed:
            first = len(self.waiting) + len(self.settled) + 1
            self.waiting.update(enumerate(traces, first))

    def pending(self, limit: int) -> list[tuple[int, EpisodeTrace]]:
        with self.changed:
            self.asked.append(limit)
            if self.broken is not None:
                raise self.broken
            return list(self.waiting.items())[:limit]

    def done(self, keys: list[int]) -> None:
        with self.changed:
            for key in keys:
                del self.waiting[key]
            self.settled += keys
            self.changed.notify_all()

    def wait_settled(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.settled) >= count, DEADLINE)


def numbered(count: int, first: int = 0, **fields: Any) -> list[EpisodeTrace]:
    return [trace_of(ended(number=n, **fields)) for n in range(first, first + count)]


@pytest.fixture
def courier_of() -> Iterator[Callable[..., Courier]]:
    made: list[Courier] = []

    def make(sink: OtlpSink, outbox: Outbox, **options: Any) -> Courier:
        said = {n: options.pop(n) for n in ("timeout", "certificate") if n in options}
        endpoint = dataclasses.replace(endpoint_of(sink.environ), **said)
        courier = Courier(
            open_transport(endpoint),
            resource=RESOURCE,
            pending=outbox.pending,
            done=outbox.done,
            **{"chance": lambda: 0.0, **options},
        )
        made.append(courier)
        return courier

    yield make
    for courier in made:
        courier.close(0.0)


Couriers = Callable[..., Courier]


def numbers(sink: OtlpSink) -> list[int]:
    return [span.attributes["episode.number"] for span in sink.spans]


class TestCourier:
    @both
    def test_what_is_pending_arrives(
        self, protocol: str, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(protocol), Outbox(*numbered(3))
        with courier_of(sink, outbox, period=3600.0) as courier:
            outbox.wait_settled(3)
            outbox.put(*numbered(2, 3))
            courier.notify()
            outbox.wait_settled(5)
        assert numbers(sink) == [0, 1, 2, 3, 4]
        assert courier.spans_exported == 5
        assert not any(courier.spans_failed.values())

    def test_a_batch_has_one_resource_and_one_scope(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(HTTP), Outbox(*numbered(5))
        shapes = []

        def look(request: Any) -> None:
            found = request.resource_spans
            shapes.append((len(found), len(found[0].scope_spans)))

        sink.rule = look
        courier_of(sink, outbox).deliver()
        assert shapes == [(1, 1)]
        assert numbers(sink) == [0, 1, 2, 3, 4]

    def test_it_looks_by_itself_once_a_period(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(HTTP), Outbox(*numbered(1))
        with courier_of(sink, outbox, period=0.01):
            outbox.wait_settled(1)
            outbox.put(*numbered(1, 1))
            outbox.wait_settled(2)

    def test_with_nothing_to_do_it_waits_a_period(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        assert courier_of(sink_of(HTTP), Outbox(), period=4.0).deliver() == 4.0

    def test_batches_grow_as_long_as_they_go_through(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(HTTP), Outbox(*numbered(1200))
        courier = courier_of(sink, outbox)
        while outbox.waiting:
            assert courier.deliver() == 0.0
        assert [len(one.spans) for one in sink.requests] == [32, 64, 128, 256, 512, 208]

    def test_a_request_stays_below_a_megabyte(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        text = {f"a{n}": "x" * 1900 for n in range(60)}
        sink, outbox = sink_of(HTTP), Outbox(*numbered(30, attributes=text))
        courier = courier_of(sink, outbox)
        while outbox.waiting:
            courier.deliver()
        sizes = [int(one.headers["content-length"]) for one in sink.requests]
        assert len(sizes) > 3
        assert max(sizes) <= courier_module.MAX_BYTES
        assert numbers(sink) == list(range(30))
        assert max(outbox.asked[1:]) <= 20  # nor is much more read than is sent

    def test_an_episode_above_that_goes_alone(
        self, sink_of: Sinks, courier_of: Couriers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(courier_module, "MAX_BYTES", 10)
        sink, outbox = sink_of(HTTP), Outbox(*numbered(3))
        courier = courier_of(sink, outbox)
        while outbox.waiting:
            courier.deliver()
        assert [len(one.spans) for one in sink.requests] == [1, 1, 1]

    @both
    def test_retry_after_is_honoured(
        self, protocol: str, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(protocol), Outbox(*numbered(1))
        sink.answer(otlp_sink.failure(429, "later", retry_after=7))
        courier = courier_of(sink, outbox)
        assert courier.deliver() == 7.0
        assert courier.failures == 1
        assert "later" in courier.last_error
        assert outbox.waiting
        assert courier.deliver() == 0.0
        assert courier.failures == 0
        assert numbers(sink) == [0]
        assert courier.spans_exported == 1

    @pytest.mark.parametrize(
        ("asked", "waited"), [(0, 1.0), (30, 30.0), (999_999, 3600.0)]
    )
    def test_what_a_receiver_may_ask_for_is_bounded(
        self, asked: int, waited: float, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink = sink_of(HTTP)
        sink.answer(otlp_sink.failure(503, retry_after=asked))
        assert courier_of(sink, Outbox(*numbered(1))).deliver() == waited

    @both
    def test_waits_grow_from_one_second_to_sixty(
        self, protocol: str, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink = sink_of(protocol)
        sink.answer(*[otlp_sink.failure(503)] * 16)
        chance = iter([0.0, 1.0] * 8)
        outbox = Outbox(*numbered(1))
        courier = courier_of(sink, outbox, chance=lambda: next(chance))
        waits = [courier.deliver() for _ in range(16)]
        assert waits == [1, 4, 1, 16, 1, 60, 1, 60, 1, 60, 1, 60, 1, 60, 1, 60]
        assert courier.deliver() == 0.0
        assert outbox.settled == [1]

    def test_it_goes_on_where_the_receiver_is_back(
        self, sink_of: Sinks, courier_of: Couriers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(courier_module, "SHORTEST", 0.01)
        sink, outbox = sink_of(HTTP), Outbox(*numbered(40))
        sink.answer(*[otlp_sink.failure(503)] * 3)
        with courier_of(sink, outbox) as courier:
            outbox.wait_settled(40)
        assert sorted(numbers(sink)) == list(range(40))
        assert courier.spans_exported == 40

    def test_several_couriers_do_not_come_back_at_once(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink = sink_of(HTTP)
        sink.answer(otlp_sink.failure(503, retry_after=30))
        courier = courier_of(sink, Outbox(*numbered(1)), chance=lambda: 1.0)
        assert courier.deliver() == pytest.approx(33.0)

    def test_new_episodes_do_not_hurry_it(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        waits: list[float | None] = []
        waiting = threading.Event()

        class Closing(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                waits.append(timeout)
                waiting.set()
                return super().wait(timeout)

        sink, outbox = sink_of(HTTP), Outbox(*numbered(1))
        sink.answer(*[otlp_sink.failure(503, retry_after=3600)] * 9)
        courier = courier_of(sink, outbox)
        courier._closing = Closing()
        courier.notify()
        courier.start()
        assert waiting.wait(DEADLINE)
        courier.notify()
        courier.close(DEADLINE)
        assert waits == [3600.0]
        assert len(sink.requests) == 2  # the one, and the last one

    def test_an_empty_outbox_ends_an_outage(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        outbox = Outbox()
        outbox.broken = OSError("disk full")
        courier = courier_of(sink_of(HTTP), outbox, period=4.0)
        courier.deliver()
        outbox.broken = None
        assert courier.deliver() == 4.0
        assert courier.failures == 0

    def test_a_slow_line_gets_smaller_batches(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(HTTP), Outbox(*numbered(32))
        sink.answer(*[otlp_sink.failure(503)] * 2)
        courier = courier_of(sink, outbox)
        for _ in range(4):
            courier.deliver()
        assert [len(one.spans) for one in sink.requests] == [32, 16, 8, 16]

    @both
    def test_a_partial_success_is_not_sent_again(
        self, protocol: str, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(protocol), Outbox(*numbered(5))
        sink.answer(otlp_sink.partial(2, "too old"))
        courier = courier_of(sink, outbox)
        courier.deliver()
        assert outbox.settled == [1, 2, 3, 4, 5]
        assert courier.spans_exported == 3
        assert courier.spans_failed["rejected"] == 2
        assert courier.last_error == "too old"
        assert len(sink.requests) == 1

    def test_more_cannot_be_rejected_than_was_sent(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink = sink_of(HTTP)
        sink.answer(otlp_sink.partial(999))
        courier = courier_of(sink, Outbox(*numbered(1)))
        courier.deliver()
        assert (courier.spans_exported, courier.spans_failed["rejected"]) == (0, 1)

    @both
    def test_a_refused_episode_takes_no_other_along(
        self, protocol: str, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        def rule(request: Any) -> Any:
            found = otlp_sink.received(request)
            bad = any(span.attributes["episode.number"] in (13, 14) for span in found)
            return otlp_sink.failure(400, "bad data") if bad else None

        sink, outbox = sink_of(protocol), Outbox(*numbered(32))
        sink.rule = rule
        courier = courier_of(sink, outbox)
        while outbox.waiting:
            assert courier.deliver() == 0.0
        assert numbers(sink) == [n for n in range(32) if n not in (13, 14)]
        assert courier.spans_exported == 30
        assert courier.spans_failed["refused"] == 2
        assert "bad data" in courier.last_error
        assert len(sink.requests) < 30  # found by halving, not one by one

    def test_when_all_are_refused_all_are_counted(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(HTTP), Outbox(*numbered(20))
        sink.rule = lambda _: otlp_sink.failure(400)
        courier = courier_of(sink, outbox)
        while outbox.waiting:
            assert courier.deliver() == 0.0
        assert courier.spans_failed["refused"] == 20
        assert courier.spans_exported == 0

    @pytest.mark.parametrize(
        "bad",
        [trace_of(previous="no trace id"), trace_of(ended(number=-1))],
        ids=["link", "number"],
    )
    def test_an_episode_that_cannot_be_drawn_takes_no_other_along(
        self,
        bad: EpisodeTrace,
        sink_of: Sinks,
        courier_of: Couriers,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        outbox = Outbox(*numbered(1), bad, *numbered(1, 1))
        sink = sink_of(HTTP)
        courier = courier_of(sink, outbox)
        courier.deliver()
        assert sorted(outbox.settled) == [1, 2, 3]
        assert numbers(sink) == [0, 1]
        assert courier.spans_failed["unencodable"] == 1
        assert courier.last_error

    def test_a_broken_outbox_is_tried_again(
        self, sink_of: Sinks, courier_of: Couriers, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink, outbox = sink_of(HTTP), Outbox(*numbered(1))
        outbox.broken = OSError("disk full")
        courier = courier_of(sink, outbox)
        assert courier.deliver() == 1.0
        assert "disk full" in courier.last_error
        outbox.broken = None
        courier.deliver()
        assert outbox.settled == [1]
        assert courier.failures == 0

    def test_an_outage_is_logged_once(
        self, sink_of: Sinks, courier_of: Couriers, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink = sink_of(HTTP)
        sink.answer(*[otlp_sink.failure(503)] * 5)
        courier = courier_of(sink, Outbox(*numbered(1)))
        for _ in range(6):
            courier.deliver()
        assert caplog.text.count("traces wait") == 1


class TestClosing:
    @both
    def test_what_is_pending_goes_first(
        self, protocol: str, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(protocol), Outbox()
        courier = courier_of(sink, outbox, period=3600.0).start()
        outbox.put(*numbered(200))
        courier.close(DEADLINE)
        assert numbers(sink) == list(range(200))
        assert not outbox.waiting

    @both
    def test_it_is_bounded_whatever_the_receiver_does(
        self, protocol: str, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(protocol), Outbox(*numbered(1))
        sink.answer(*[otlp_sink.hang()] * 3)
        courier = courier_of(sink, outbox, timeout=60.0).start()
        sink.wait_for(lambda s: s.requests)
        courier.close(0.2)
        assert not courier.running
        assert list(outbox.waiting) == [1]

    @both
    def test_it_is_bounded_over_tls_too(
        self,
        protocol: str,
        sink_of: Sinks,
        courier_of: Couriers,
        certificate: tuple[str, str],
    ) -> None:
        sink = sink_of(protocol, certificate=certificate)
        sink.answer(*[otlp_sink.hang()] * 3)
        outbox = Outbox(*numbered(1))
        options = {"timeout": 60.0, "certificate": certificate[0]}
        courier = courier_of(sink, outbox, **options).start()
        sink.wait_for(lambda s: s.requests)
        courier.close(0.2)
        assert not courier.running
        assert list(outbox.waiting) == [1]

    def test_nobody_there_holds_it_up(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(HTTP), Outbox(*numbered(1))
        sink.close()
        courier = courier_of(sink, outbox).start()
        courier.close(DEADLINE)
        assert not courier.running
        assert list(outbox.waiting) == [1]

    def test_afterwards_the_outbox_is_left_alone(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        sink, outbox = sink_of(HTTP), Outbox()
        courier = courier_of(sink, outbox).start()
        courier.close(DEADLINE)
        asked = len(outbox.asked)
        outbox.put(*numbered(1))
        courier.notify()
        courier.deliver()
        assert len(outbox.asked) == asked
        assert not sink.requests

    def test_again_is_harmless(self, sink_of: Sinks, courier_of: Couriers) -> None:
        with courier_of(sink_of(HTTP), Outbox()) as courier:
            courier.close(DEADLINE)
            courier.close(0.0)
        assert not courier.running

    def test_one_that_was_never_started_closes(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        courier = courier_of(sink_of(HTTP), Outbox(*numbered(1)))
        courier.close()
        assert not courier.running

    def test_the_last_try_ends_with_the_closing(
        self, sink_of: Sinks, courier_of: Couriers
    ) -> None:
        now = [100.0]
        limits: list[float | None] = []
        tried = threading.Event()

        class Wire:
            def send(self, request: Any, timeout: float | None = None) -> Delivery:
                limits.append(timeout)
                tried.set()
                return Delivery("retryable", "no")

            def close(self) -> None:
                pass

        outbox = Outbox(*numbered(1))
        courier = Courier(
            Wire(),
            resource=RESOURCE,
            pending=outbox.pending,
            done=outbox.done,
            clock=lambda: now[0],
        ).start()
        assert tried.wait(DEADLINE)
        courier.close(3.0)
        assert limits[0] is None
        assert limits[-1] == 3.0


def test_the_variables_are_all_there_is_to_set(tmp_path: Path, sink_of: Sinks) -> None:
    sink = sink_of(HTTP)
    environ = {**sink.environ, "OTEL_SERVICE_NAME": "lab"}
    transport = open_transport(endpoint_of(environ))
    found: list[ReadableSpan] = spans(trace_of(), resource(environ, "1"))
    assert send(transport, found).kind == "delivered"
    assert sink.spans[0].resource["service.name"] == "lab"
    assert json.loads(found[0].to_json())["name"] == "episode"
