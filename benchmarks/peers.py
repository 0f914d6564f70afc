"""What people would use instead of a hook call, as far as it is installed.

Each writes to where it would: a PUB socket that has a subscriber, a UDP port, a file.
"""

import json
import os
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator

import msgspec
import zmq

from benchmarks.lines import STATE, Line, looped


def peer_lines(stack: ExitStack) -> Iterator[Line]:
    """All that is installed; what has to be closed is on the stack."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    yield from zmq_lines(stack)
    yield from prometheus_lines()
    yield from opentelemetry_lines()
    yield from statsd_lines(stack)
    yield from tensorboard_lines(stack, folder)
    yield from wandb_lines(stack, folder)


def zmq_lines(stack: ExitStack) -> Iterator[Line]:
    """A message for each step, as the prototype of these hooks had it."""
    context: Any = zmq.Context()
    stack.callback(context.destroy, linger=0)
    pub, sub = context.socket(zmq.PUB), context.socket(zmq.SUB)
    port = pub.bind_to_random_port("tcp://127.0.0.1")
    sub.connect(f"tcp://127.0.0.1:{port}")
    sub.setsockopt(zmq.SUBSCRIBE, b"")
    while not sub.poll(10):
        pub.send(b"there?")
    given = {"send": pub.send, "dumps": json.dumps, "state": STATE}
    body = "send(dumps(state).encode(), 1)"
    yield Line("json.dumps + PUB send", looped(body, **given), 500)
    encode = msgspec.msgpack.Encoder().encode
    packed = looped("send(encode(s), 1)", send=pub.send, encode=encode, s=STATE)
    yield Line("msgspec + PUB send", packed, 500)


def prometheus_lines() -> Iterator[Line]:
    """Children of prometheus_client, kept as in a hot loop."""
    try:
        from prometheus_client import CollectorRegistry, Counter, Histogram
    except ImportError:
        return
    registry = CollectorRegistry()
    wins = Counter("wins", "Help.", ["mode"], registry=registry).labels("eval")
    seconds = Histogram("seconds", "Help.", ["mode"], registry=registry).labels("eval")
    yield Line("prometheus_client inc", looped("inc()", inc=wins.inc), 5000)
    observed = looped("observe(0.5)", observe=seconds.observe)
    yield Line("prometheus_client observe", observed, 5000)


def opentelemetry_lines() -> Iterator[Line]:
    """The SDK with readers in memory: what is sent later is not counted."""
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
            InMemorySpanExporter,
        )
    except ImportError:
        return
    meter = MeterProvider([InMemoryMetricReader()]).get_meter("benchmark")
    wins, seconds = meter.create_counter("wins"), meter.create_histogram("seconds")
    labels = {"mode": "eval"}
    added = looped("add(1, labels)", add=wins.add, labels=labels)
    yield Line("OpenTelemetry counter.add", added, 2000)
    recorded = looped("record(0.5, labels)", record=seconds.record, labels=labels)
    yield Line("OpenTelemetry record", recorded, 2000)
    exporter = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    start = tracing.get_tracer("benchmark").start_as_current_span
    spans = looped("with start('step'): pass", start=start)

    def spans_forgotten(n: int) -> None:
        spans(n)
        exporter.clear()

    yield Line("OpenTelemetry span", spans_forgotten, 200)


def statsd_lines(stack: ExitStack) -> Iterator[Line]:
    """A datagram for each call, to a port where somebody could read it."""
    try:
        import statsd
    except ImportError:
        return
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stack.callback(receiver.close)
    receiver.bind(("127.0.0.1", 0))
    client = statsd.StatsClient("127.0.0.1", receiver.getsockname()[1])
    stack.callback(client.close)
    yield Line("statsd incr", looped("incr('wins')", incr=client.incr), 500)
    timed = looped("timing('step', 0.5)", timing=client.timing)
    yield Line("statsd timing", timed, 500)


def tensorboard_lines(stack: ExitStack, folder: str) -> Iterator[Line]:
    """One scalar a call, into an event file."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return
    writer = SummaryWriter(str(Path(folder) / "tensorboard"))
    stack.callback(writer.close)
    added = looped("add('return', 0.5, 17)", add=writer.add_scalar)
    yield Line("tensorboardX add_scalar", added, 200)


def wandb_lines(stack: ExitStack, folder: str) -> Iterator[Line]:
    """Ten values a call, offline."""
    os.environ["WANDB_SILENT"] = "true"  # read when it is imported
    try:
        import wandb
    except ImportError:
        return
    run = wandb.init(project="benchmark", mode="offline", dir=folder)
    stack.callback(run.finish)
    values = {f"value_{number}": number / 10 for number in range(10)}
    yield Line("wandb log, offline", looped("log(v)", log=run.log, v=values), 100)
