"""End to end: whatever the receiver of traces does, it gets all of them in the end."""

from __future__ import annotations

import time
from typing import Any, Callable, List, Optional, Set

import pytest

from tests import otlp_sink
from tests.otlp_sink import GRPC, HTTP, Answer, OtlpSink
from tests.support import Exporter, Pythons, eventually, free_port
from tests.test_e2e_stores import EPISODES, EXPERIMENT, traces_of

BRIEF = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1000"}
"""Milliseconds that one try may take: the least there is."""


def roots(sink: OtlpSink) -> Set[str]:
    return {root.trace_id for root in sink.named("episode")}


def gets_all(sink: OtlpSink, told: List[str], exporter: Exporter) -> None:
    """All of them arrive, under the ids that the experiment was told, and no other."""
    sink.wait_for(lambda found: roots(found) >= set(told), 60)
    assert roots(sink) == set(told)
    eventually(lambda: exporter.value("episight_spans_pending") == 0, 15)


def failed(exporter: Exporter, reason: str) -> Optional[float]:
    return exporter.value("episight_spans_failed_total", reason=reason)


TROUBLE = [
    ("429", HTTP, [otlp_sink.failure(429, "too many")] * 2),
    ("503", HTTP, [otlp_sink.failure(503)] * 2),
    ("hangs", HTTP, [otlp_sink.hang()]),
    ("no HTTP", HTTP, [otlp_sink.noise()] * 2),
    ("drips", HTTP, [otlp_sink.drip()]),
    ("an unreadable yes", HTTP, [otlp_sink.garbage()]),
    ("unavailable", GRPC, [otlp_sink.failure(503)] * 2),
    ("hangs", GRPC, [otlp_sink.hang()]),
]


@pytest.mark.parametrize(
    ("protocol", "answers"),
    [(protocol, answers) for _, protocol, answers in TROUBLE],
    ids=[f"{protocol[:4]} {name}" for name, protocol, _ in TROUBLE],
)
def test_one_that_is_in_trouble_and_recovers_gets_all(
    protocol: str,
    answers: List[Answer],
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
) -> None:
    with OtlpSink(protocol) as sink:
        sink.answer(*answers)
        exporter = exporter_process(env={**sink.environ, **BRIEF})
        told = traces_of(run_python(EXPERIMENT, env=exporter.env).output)
        assert len(told) == EPISODES
        gets_all(sink, told, exporter)
        exported = exporter.value("episight_spans_exported_total")
        assert exported == len({one.span_id for one in sink.spans})


def test_it_is_not_asked_again_before_the_time_that_it_says(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    asked: List[float] = []
    with OtlpSink(HTTP) as sink:
        sink.rule = lambda request: asked.append(time.monotonic())  # type: ignore[func-returns-value]
        sink.answer(otlp_sink.failure(429, retry_after=3))
        exporter = exporter_process(env=sink.environ)
        told = traces_of(run_python(EXPERIMENT, env=exporter.env).output)
        gets_all(sink, told, exporter)
    assert asked[1] - asked[0] >= 3


def test_one_that_takes_a_part_is_not_sent_the_rest_again(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    with OtlpSink(HTTP) as sink:
        sink.answer(otlp_sink.partial(2, "too old"))
        exporter = exporter_process(env=sink.environ)
        told = traces_of(run_python(EXPERIMENT, env=exporter.env).output)
        gets_all(sink, told, exporter)
        assert failed(exporter, "rejected") == 2
        exported = exporter.value("episight_spans_exported_total")
        assert exported == len(sink.spans) - 2
        assert "too old" in exporter.output


def test_an_episode_that_it_refuses_takes_no_other_along(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    def rule(request: Any) -> Optional[Answer]:
        found = otlp_sink.received(request)
        bad = any(span.attributes.get("episode.index") == 2 for span in found)
        return otlp_sink.failure(400, "a bad one") if bad else None

    with OtlpSink(HTTP, rule=rule) as sink:
        exporter = exporter_process(env=sink.environ)
        told = traces_of(run_python(EXPERIMENT, env=exporter.env).output)
        del told[2]
        gets_all(sink, told, exporter)
        # One root, two phases and the sampled steps.
        refused = failed(exporter, "refused")
        assert refused is not None
        assert refused >= 3
        assert "a bad one" in exporter.output


def test_what_waits_for_one_that_is_not_there_outlives_a_kill(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    port = free_port()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    exporter = exporter_process(env=environ)
    told = traces_of(run_python(EXPERIMENT, env=exporter.env).output)
    for _ in range(2):
        eventually(lambda: exporter.value("episight_spans_pending") == EPISODES)
        exporter.kill()
        exporter.start()
    with OtlpSink(HTTP, listen=port) as sink:
        gets_all(sink, told, exporter)


def test_an_hour_of_episodes_waits_and_arrives_whole(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    """One a second, as many as an hour has; they are not waited for here."""
    port = free_port()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    exporter = exporter_process(env=environ)
    code = """
        import experiment_hooks as eh

        with eh.open_run("hour") as run:
            for index in range(3600):
                with run.episode(mode="eval", index=index) as ep:
                    ep.step()
                    ep.finish(outcome="correct")
                print("TRACE", ep.trace_id)
    """
    told = traces_of(run_python(code, env=exporter.env).output)
    assert len(told) == 3600
    eventually(lambda: exporter.value("episight_spans_pending") == 3600, 30)
    with OtlpSink(HTTP, listen=port) as sink:
        gets_all(sink, told, exporter)


def test_one_that_is_killed_in_the_midst_of_sending_sends_it_again(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    """What the receiver took and nobody was told of comes twice, as the same."""
    with OtlpSink(HTTP) as sink:
        sink.answer(otlp_sink.hang())
        exporter = exporter_process(env=sink.environ)
        told = traces_of(run_python(EXPERIMENT, env=exporter.env).output)
        sink.wait_for(lambda found: found.requests)
        exporter.kill()
        exporter.start()
        gets_all(sink, told, exporter)
        first = {span.span_id: span.trace_id for span in sink.requests[0].spans}
        again = {span.span_id: span.trace_id for span in sink.spans}
        assert first.items() <= again.items()


def test_more_than_may_wait_costs_the_oldest(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    port = free_port()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    exporter = exporter_process("traces.max_pending=4", env=environ)
    told = traces_of(run_python(EXPERIMENT, env=exporter.env).output)
    eventually(lambda: failed(exporter, "backlog") == EPISODES - 4)
    assert exporter.value("episight_spans_pending") == 4
    assert len(exporter.episodes("stores")) == EPISODES
    with OtlpSink(HTTP, listen=port) as sink:
        gets_all(sink, told[-4:], exporter)
    assert exporter.output.count("more than 4 episodes wait") == 1
