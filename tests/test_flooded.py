"""A connection that ends while more of it waits than is read: no process ends of it.

Where a socket has a bound for what waits and a heartbeat, libzmq 4.3.5 aborts the
process ("Assertion failed: !_io_error"), when the connection ends and then the
heartbeat is due. So what receives here is as it is in an exporter, and in the hooks.
"""

from tests.support import RUNS_EXPORTER, Pythons

FLOOD = """
def flood(sender, parts, receiver, answer):
    for _ in range(10_000):
        try:
            sender.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            break
    assert receiver.poll(10_000)
    sender.close(linger=500)
    nobody = context.socket(zmq.PULL)
    nobody.poll(1_000)
    # What comes for one that is gone is answered with a reset.
    with contextlib.suppress(zmq.Again):  # it may know already
        receiver.send_multipart(answer, zmq.NOBLOCK)
    nobody.poll(6_000)  # the heartbeat would be due after 5
    nobody.close()

context = zmq.Context()
"""
HOOKS = """
import contextlib
import zmq
from experiment_hooks.dial import Dialer, Place
"""
EXPORTER = """
import contextlib
import zmq
from experiment_hooks import wire
from exporter.inbox import Inbox
from exporter.ingest import Ingest
"""


def test_the_hooks_process_does_not_end(run_python: Pythons) -> None:
    code = (
        HOOKS
        + FLOOD
        + """
router = context.socket(zmq.ROUTER)
router.setsockopt(zmq.SNDHWM, 0)
port = router.bind_to_random_port("tcp://127.0.0.1")
place = Place(f"tcp://127.0.0.1:{port}")
dealer = Dialer(place.address).socket(context, place)
dealer.connect(place.address)
dealer.send(b"hello")
identity, _ = router.recv_multipart()
flood(router, [identity, bytes(1000)], dealer, [b"beat"])
dealer.close(linger=0)
context.term()
print("LIVES")
"""
    )
    assert "LIVES" in run_python(code).output


def test_the_exporter_does_not_end(run_python: Pythons) -> None:
    code = (
        EXPORTER
        + FLOOD
        + """
ingest = Ingest(
    "127.0.0.1", 0, inbox=Inbox(), place=lambda said: said.run,
    on_sample=lambda *told: None, page=lambda run: "", version="1",
)
dealer = context.socket(zmq.DEALER)
dealer.setsockopt(zmq.SNDHWM, 0)
dealer.connect(ingest.address)
dealer.send(b"")
identity, _ = ingest._socket.recv_multipart()
flood(dealer, [bytes(1000)], ingest._socket, [identity, b"ack"])
ingest.start()
another = context.socket(zmq.DEALER)
another.connect(ingest.address)
beat = wire.Heartbeat(sent=1.0)
another.send(wire.encode(beat))
assert another.poll(20_000)
print("LIVES", wire.decode_from_exporter(another.recv()) == wire.Who())
another.close(0)
ingest.close()
context.term()
"""
    )
    python = None if RUNS_EXPORTER else "3.11"
    assert "LIVES True" in run_python(code, python=python).output
