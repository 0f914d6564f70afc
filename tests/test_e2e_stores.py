"""End to end, into real stores: a Prometheus that scrapes, a receiver of traces."""

from __future__ import annotations

import re
import time
from typing import Any, Callable, Dict, List, Set

import pytest

from experiment_hooks import wire
from tests.otlp_sink import GRPC, HTTP, OtlpSink, ReceivedSpan
from tests.support import Exporter, Prometheus, Pythons, eventually

EPISODES = 6

# Episodes with phases, scores, an error; all that it knows of itself it prints.
EXPERIMENT = f"""
import experiment_hooks as eh

with eh.open_run(
    "stores", run_id="stores", success={{"correct"}}, expected_episodes={{"eval": 6}}
) as run:
    hits = run.counter("hits", "Hits.", labels=["side"])
    wait = run.histogram("wait_seconds", "Waits.", buckets=[0.1, 1])
    for index in range({EPISODES}):
        try:
            with run.episode(mode="eval", epoch=1, index=index, target="mug") as ep:
                with ep.phase("matching"):
                    for step in range(20):
                        ep.step(state={{"step": step}}, scores={{"mug": step / 20}})
                        hits.labels(side="left").inc()
                        wait.observe(0.5)
                with ep.phase("goal"):
                    ep.step()
                print("TRACE", ep.trace_id, flush=True)
                if index == 3:
                    raise ValueError("no mug")
                ep.finish(outcome="correct", results={{"error": 0.25}}, color="blue")
        except ValueError:
            pass
"""


def traces_of(output: str) -> List[str]:
    return re.findall(r"TRACE ([0-9a-f]{32})", output)


# --- Prometheus -------------------------------------------------------------------


def test_two_prometheus_servers_see_the_same_and_get_the_exemplars(
    exporter_process: Callable[..., Exporter],
    prometheus_process: Callable[..., Prometheus],
    run_python: Pythons,
) -> None:
    exporter = exporter_process()
    servers = [prometheus_process(exporter.web, interval="200ms") for _ in range(2)]
    ended = run_python(EXPERIMENT, env=exporter.env)
    eventually(lambda: exporter.run("stores")["state"] == "completed")

    def series(server: Prometheus) -> Dict[Any, float]:
        found = server.query('{run="stores"}')
        return {(one.name, *sorted(one.labels.items())): one.value for one in found}

    def complete(server: Prometheus) -> Dict[Any, float]:
        steps = 'experiment_steps_total{run="stores"}'
        over = 'experiment_run_state{run="stores",state="completed"}'
        assert server.value(steps) == 21 * EPISODES
        assert server.value(over) == 1
        return series(server)

    first, second = (eventually(lambda s=s: complete(s), 15) for s in servers)
    assert len(first) > 80
    assert {key for key in first if first[key] != second.get(key)} == set()
    for server in servers:
        assert server.value('up{job="episight"}') == 1
        (target,) = server.api("targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        complaints = [
            line
            for line in server.process.output.splitlines()
            if re.search(r"level=(warn|error)", line)
        ]
        assert complaints == []
        expected = {
            'experiment_episodes_total{outcome="correct"}': EPISODES - 1,
            'experiment_episodes_total{outcome="error"}': 1,
            "experiment_episode_successes_total": EPISODES - 1,
            "experiment_hits_total": 20 * EPISODES,
            "experiment_wait_seconds_count": 20 * EPISODES,
            'experiment_phases_total{phase="goal"}': EPISODES,
            "experiment_episode_steps_sum": 21 * EPISODES,
        }
        assert {name: server.value(name) for name in expected} == expected
        assert exemplars(server) <= set(traces_of(ended.output))
        assert exemplars(server)


def exemplars(server: Prometheus) -> Set[str]:
    now = time.time()
    found = server.api(
        "query_exemplars",
        query='experiment_episode_duration_seconds_bucket{run="stores"}',
        start=str(now - 600),
        end=str(now + 60),
    )
    return {
        one["labels"]["trace_id"] for series in found for one in series["exemplars"]
    }


# --- traces -----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_each_episode_is_a_trace_with_the_ids_that_everybody_knows(
    protocol: str,
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
) -> None:
    with OtlpSink(protocol) as sink:
        environ = {
            **sink.environ,
            "OTEL_SERVICE_NAME": "robots",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=lab",
        }
        exporter = exporter_process(env=environ)
        before = time.time()
        ended = run_python(EXPERIMENT, env=exporter.env)
        after = time.time()
        sink.wait_for(lambda found: len(found.named("episode")) >= EPISODES)
        told = traces_of(ended.output)
        assert len(told) == EPISODES
        roots = {root.trace_id: root for root in sink.named("episode")}
        assert list(roots) == told

        (source,) = exporter.run("stores")["source_list"]
        ids = [
            wire.trace_id("stores", bytes.fromhex(source["source"]), number)
            for number in range(EPISODES)
        ]
        assert told == ids
        episodes = exporter.episodes("stores")
        assert [episode["trace_id"] for episode in episodes] == told
        for index, root in enumerate(roots.values()):
            check_root(root, index, before, after)
            check_children(root, sink.spans)
        statuses = [root.span.status.code for root in roots.values()]
        assert statuses == [0, 0, 0, 2, 0, 0]
        ((name, _, said),) = list(roots.values())[3].events
        assert (name, said["exception.type"]) == ("exception", "ValueError")
        assert {root.resource["service.name"] for root in roots.values()} == {"robots"}
        (lab,) = {root.resource["deployment.environment"] for root in roots.values()}
        assert lab == "lab"

        accept = "application/openmetrics-text;version=1.0.0"
        text = exporter.get("/metrics", accept=accept).text
        shown = set(re.findall(r'# \{trace_id="([0-9a-f]{32})"\}', text))
        assert shown
        assert shown <= set(told)
        eventually(lambda: exporter.value("episight_spans_pending") == 0)
        exported = exporter.value("episight_spans_exported_total")
        assert exported == len(sink.spans)


def check_root(root: ReceivedSpan, index: int, before: float, after: float) -> None:
    """What it says of the episode; its times are the source's own."""
    assert root.span_id == wire.span_id(root.trace_id, "episode")
    assert root.parent_id == ""
    start, end = root.span.start_time_unix_nano, root.span.end_time_unix_nano
    assert before * 1e9 <= start <= end <= after * 1e9
    expected = {
        "experiment.run.id": "stores",
        "experiment.name": "stores",
        "experiment.mode": "eval",
        "experiment.epoch": 1,
        "episode.index": index,
        "episode.target": "mug",
        "episode.steps": 21,
        "episode.outcome": "error" if index == 3 else "correct",
    }
    assert expected.items() <= root.attributes.items()


def check_children(root: ReceivedSpan, spans: List[ReceivedSpan]) -> None:
    """Its phases are its children, one after the other, and within it."""
    children = [span for span in spans if span.parent_id == root.span_id]
    phases = [span for span in children if "experiment.phase" in span.attributes]
    assert [span.name for span in phases] == ["matching", "goal"]
    assert {span.trace_id for span in children} == {root.trace_id}
    edges = [root.span.start_time_unix_nano]
    for span in phases:
        edges += [span.span.start_time_unix_nano, span.span.end_time_unix_nano]
    edges.append(root.span.end_time_unix_nano)
    assert edges == sorted(edges)


def test_what_was_not_delivered_is_delivered_after_a_restart(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    """The receiver was down; the traces lie in the journal."""
    with OtlpSink(HTTP) as sink:
        environ = sink.environ
        sink.close()
        exporter = exporter_process(env=environ)
        run_python(EXPERIMENT, env=exporter.env)
        eventually(lambda: exporter.value("episight_spans_pending") == EPISODES)
        assert exporter.terminate() == 0
    with OtlpSink(HTTP) as sink:
        exporter._env.update(sink.environ)
        exporter.start()
        sink.wait_for(lambda found: len(found.named("episode")) >= EPISODES)
        eventually(lambda: exporter.value("episight_spans_pending") == 0)


def test_sigterm_delivers_what_was_committed(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    with OtlpSink(HTTP) as sink:
        exporter = exporter_process(env=sink.environ)
        code = """
import experiment_hooks as eh
with eh.open_run("flood", run_id="flood") as run:
    for index in range(1000):
        with run.episode(mode="eval", index=index) as ep:
            ep.finish(outcome="correct")
"""
        run_python(code, env=exporter.env)
        assert exporter.terminate() == 0
        assert len({root.trace_id for root in sink.named("episode")}) == 1000
