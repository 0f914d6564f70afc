"""The wire: golden frames, what is refused, and that nothing else ever escapes."""

import hashlib
import math
import typing
from typing import Any, Dict, List, Tuple, Type, Union

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiment_hooks import wire
from tests.support import as_name

SOURCE = bytes(range(16))
OWNER = bytes(range(16, 32))
BASE: Dict[str, Any] = {
    "run": "mug-1",
    "source": SOURCE,
    "seq": 7,
    "time": 1700000000.25,
}
ERROR = wire.ErrorInfo("ValueError", "no \u00e9", "Traceback ...")
MESSAGES: List[Any] = [
    wire.SourceOpened(
        **BASE,
        host="node-1",
        pid=4242,
        name="worker-3",
        role="child",
        owner=OWNER,
        python="3.8.18",
        version="0.1.0",
        thread=False,
    ),
    wire.RunOpened(
        **BASE,
        experiment="mug",
        resume=True,
        config={"lr": 0.5, "on": True, "none": None, "list": [1, "a"]},
        tags={"team": "a"},
        facts={"gpus": 2},
        info={"lr": "0.5"},
        launch={"command": ["python", "x.py"]},
        expected_episodes={"train": 100},
        expected_steps={"eval": 5},
        expected_epochs={"train": 3},
        success=("correct", "correct_mlh"),
        promise=30.0,
        episode_duration_buckets=(1.0, 2.0),
        episode_steps_buckets=(10.0,),
    ),
    wire.RunClosed(**BASE, ending="failed", reason="user", error=ERROR),
    wire.SourceClosed(
        **BASE,
        ending="completed",
        reason="",
        error=None,
        totals=wire.pack_totals([1.0, 0.1]),
        dropped={"log_rate": 3},
        epochs={"train": 2},
    ),
    wire.Schema(
        **BASE,
        first_metric=1,
        first_series=2,
        metrics=(
            wire.MetricSpec(
                "reward", "gauge", "The reward.", ("side",), "sum", (), True
            ),
            wire.MetricSpec("seconds", "histogram", buckets=(0.1, 1.0)),
        ),
        series=(wire.SeriesSpec(0, ("left",)), wire.SeriesSpec(1)),
    ),
    wire.EpisodeStarted(
        **BASE, number=0, mode="eval", epoch=0, index=3, target="mug", seed=7
    ),
    wire.EpisodeEnded(
        **BASE,
        number=0,
        mode="eval",
        started=1700000000.0,
        duration=2.5,
        steps=10,
        outcome="correct",
        epoch=0,
        index=3,
        target="mug",
        seed=-1,
        success=True,
        results={"return": 12.5},
        attributes={"note": ["x", None]},
        scores={"mug": 0.75},
        phases=(wire.PhaseSpan("match", 0.5, 1.0, 4),),
        sampled=(wire.StepSpan(1, 0.25, 0.125, {"mug": 0.5}),),
        events=(wire.Event("moved", 1.5, {"to": "left"}),),
        omitted={"events": 2},
        error=ERROR,
    ),
    wire.LogLine(
        **BASE,
        level="warning",
        message="careful",
        logger="app",
        fields={"n": 1},
        trace="0af7651916cd43dd8448eb211c80319c",
    ),
    wire.CommandAnswered(**BASE, command="c-1", state="failed", detail="no"),
    wire.GivenUp(**BASE, ranges=((1, 3), (5, 5)), reason="memory"),
    wire.Hello(
        protocol=1,
        source=SOURCE,
        run="mug-1",
        sent=1700000000.5,
        version="0.1.0",
        host="node-1",
        pid=4242,
        experiment="mug",
        thread=False,
        announced=9,
        role="child",
        owner=OWNER,
        resume=True,
        replay=True,
    ),
    wire.Records(seqs=(1, 2, 300), sent=1700000000.5, announced=300),
    wire.Sample(
        number=5,
        sent=1700000000.5,
        announced=9,
        totals=wire.pack_totals([3.0]),
        progress=1700000000.0,
        gap=0.5,
        gaps=12,
        promise=60.0,
        open=(
            wire.OpenEpisode(
                1, "eval", 10, 1700000000.0, 1700000000.25, "match", 0, 3, "mug"
            ),
        ),
        epochs={"eval": 0},
        moments=(
            wire.Moment(
                1700000000.25,
                1,
                10,
                wire.encode_plain({"x": 1}),
                {"mug": 0.75},
                (wire.Image("view", (2, 2, 3), "|u1", 0, 2),),
            ),
        ),
        streams={"sensor": wire.encode_plain([1.5])},
        dropped={"value": 1},
        commands=("checkpoint", "stop"),
    ),
    wire.Heartbeat(sent=1700000000.5, announced=9),
    wire.Welcome(
        protocol=1,
        time=1700000001.0,
        version="0.1.0",
        run="mug-1-2",
        url="http://127.0.0.1:8000/runs/mug-1-2",
        watched=True,
    ),
    wire.Refused(reason="protocol", sentence="install the same version"),
    wire.Who(),
    wire.Ack(records=((1, 2), (4, 4)), sample=5),
    wire.Watch(on=True),
    wire.Command(id="c-1", name="stop", when="episode", reason="late", by="ann"),
    wire.Ping(),
]

# What each of them is on the wire, as hexadecimal digits. It lies in journals and
# spools, and other versions speak it: a change here is a new protocol.
GOLDEN: Dict[str, str] = {
    "SourceOpened": """
        8da46b696e64ad736f757263655f6f70656e6564a372756ea56d75672d31a6736f757263
        65c410000102030405060708090a0b0c0d0e0fa373657107a474696d65cb41d954fc4010
        0000a4686f7374a66e6f64652d31a3706964cd1092a46e616d65a8776f726b65722d33a4
        726f6c65a56368696c64a56f776e6572c410101112131415161718191a1b1c1d1e1fa670
        7974686f6ea6332e382e3138a776657273696f6ea5302e312e30a6746872656164c2
        """,
    "RunOpened": """
        de0013a46b696e64aa72756e5f6f70656e6564a372756ea56d75672d31a6736f75726365
        c410000102030405060708090a0b0c0d0e0fa373657107a474696d65cb41d954fc401000
        00aa6578706572696d656e74a36d7567a6726573756d65c3a6636f6e66696784a26c72cb
        3fe0000000000000a26f6ec3a46e6f6e65c0a46c6973749201a161a47461677381a47465
        616da161a5666163747381a46770757302a4696e666f81a26c72a3302e35a66c61756e63
        6881a7636f6d6d616e6492a6707974686f6ea4782e7079b165787065637465645f657069
        736f64657381a5747261696e64ae65787065637465645f737465707381a46576616c05af
        65787065637465645f65706f63687381a5747261696e03a77375636365737392a7636f72
        72656374ab636f72726563745f6d6c68a770726f6d697365cb403e000000000000b86570
        69736f64655f6475726174696f6e5f6275636b65747392cb3ff0000000000000cb400000
        0000000000b5657069736f64655f73746570735f6275636b65747391cb40240000000000
        00
        """,
    "RunClosed": """
        88a46b696e64aa72756e5f636c6f736564a372756ea56d75672d31a6736f75726365c410
        000102030405060708090a0b0c0d0e0fa373657107a474696d65cb41d954fc40100000a6
        656e64696e67a66661696c6564a6726561736f6ea475736572a56572726f7283a4747970
        65aa56616c75654572726f72a76d657373616765a56e6f20c3a9a974726163656261636b
        ad54726163656261636b202e2e2e
        """,
    "SourceClosed": """
        89a46b696e64ad736f757263655f636c6f736564a372756ea56d75672d31a6736f757263
        65c410000102030405060708090a0b0c0d0e0fa373657107a474696d65cb41d954fc4010
        0000a6656e64696e67a9636f6d706c65746564a6746f74616c73c410000000000000f03f
        9a9999999999b93fa764726f7070656481a86c6f675f7261746503a665706f63687381a5
        747261696e02
        """,
    "Schema": """
        89a46b696e64a6736368656d61a372756ea56d75672d31a6736f75726365c41000010203
        0405060708090a0b0c0d0e0fa373657107a474696d65cb41d954fc40100000ac66697273
        745f6d657472696301ac66697273745f73657269657302a76d6574726963739286a46e61
        6d65a6726577617264a474797065a56761756765a468656c70ab54686520726577617264
        2ea66c6162656c7391a473696465a56d65726765a373756da466726565c383a46e616d65
        a77365636f6e6473a474797065a9686973746f6772616da76275636b65747392cb3fb999
        999999999acb3ff0000000000000a67365726965739282a66d657472696300a676616c75
        657391a46c65667481a66d657472696301
        """,
    "EpisodeStarted": """
        8ba46b696e64af657069736f64655f73746172746564a372756ea56d75672d31a6736f75
        726365c410000102030405060708090a0b0c0d0e0fa373657107a474696d65cb41d954fc
        40100000a66e756d62657200a46d6f6465a46576616ca565706f636800a5696e64657803
        a6746172676574a36d7567a47365656407
        """,
    "EpisodeEnded": """
        de0018a46b696e64ad657069736f64655f656e646564a372756ea56d75672d31a6736f75
        726365c410000102030405060708090a0b0c0d0e0fa373657107a474696d65cb41d954fc
        40100000a66e756d62657200a46d6f6465a46576616ca773746172746564cb41d954fc40
        000000a86475726174696f6ecb4004000000000000a573746570730aa76f7574636f6d65
        a7636f7272656374a565706f636800a5696e64657803a6746172676574a36d7567a47365
        6564ffa773756363657373c3a7726573756c747381a672657475726ecb40290000000000
        00aa6174747269627574657381a46e6f746592a178c0a673636f72657381a36d7567cb3f
        e8000000000000a67068617365739184a46e616d65a56d61746368a57374617274cb3fe0
        000000000000a86475726174696f6ecb3ff0000000000000a5737465707304a773616d70
        6c65649184a47374657001a57374617274cb3fd0000000000000a86475726174696f6ecb
        3fc0000000000000a673636f72657381a36d7567cb3fe0000000000000a66576656e7473
        9183a46e616d65a56d6f766564a26174cb3ff8000000000000aa61747472696275746573
        81a2746fa46c656674a76f6d697474656481a66576656e747302a56572726f7283a47479
        7065aa56616c75654572726f72a76d657373616765a56e6f20c3a9a97472616365626163
        6bad54726163656261636b202e2e2e
        """,
    "LogLine": """
        8aa46b696e64a36c6f67a372756ea56d75672d31a6736f75726365c41000010203040506
        0708090a0b0c0d0e0fa373657107a474696d65cb41d954fc40100000a56c6576656ca777
        61726e696e67a76d657373616765a76361726566756ca66c6f67676572a3617070a66669
        656c647381a16e01a57472616365d9203061663736353139313663643433646438343438
        656232313163383033313963
        """,
    "CommandAnswered": """
        88a46b696e64b0636f6d6d616e645f616e737765726564a372756ea56d75672d31a6736f
        75726365c410000102030405060708090a0b0c0d0e0fa373657107a474696d65cb41d954
        fc40100000a7636f6d6d616e64a3632d31a57374617465a66661696c6564a66465746169
        6ca26e6f
        """,
    "GivenUp": """
        87a46b696e64a8676976656e5f7570a372756ea56d75672d31a6736f75726365c4100001
        02030405060708090a0b0c0d0e0fa373657107a474696d65cb41d954fc40100000a67261
        6e67657392920103920505a6726561736f6ea66d656d6f7279
        """,
    "Hello": """
        8fa46b696e64a568656c6c6fa870726f746f636f6c01a6736f75726365c4100001020304
        05060708090a0b0c0d0e0fa372756ea56d75672d31a473656e74cb41d954fc40200000a7
        76657273696f6ea5302e312e30a4686f7374a66e6f64652d31a3706964cd1092aa657870
        6572696d656e74a36d7567a6746872656164c2a9616e6e6f756e63656409a4726f6c65a5
        6368696c64a56f776e6572c410101112131415161718191a1b1c1d1e1fa6726573756d65
        c3a67265706c6179c3
        """,
    "Records": """
        84a46b696e64a77265636f726473a473657173930102cd012ca473656e74cb41d954fc40
        200000a9616e6e6f756e636564cd012c
        """,
    "Sample": """
        8fa46b696e64a673616d706c65a66e756d62657205a473656e74cb41d954fc40200000a9
        616e6e6f756e63656409a6746f74616c73c4080000000000000840a870726f6772657373
        cb41d954fc40000000a3676170cb3fe0000000000000a4676170730ca770726f6d697365
        cb404e000000000000a46f70656e9189a66e756d62657201a46d6f6465a46576616ca573
        746570730aa773746172746564cb41d954fc40000000a46c617374cb41d954fc40100000
        a57068617365a56d61746368a565706f636800a5696e64657803a6746172676574a36d75
        67a665706f63687381a46576616c00a76d6f6d656e74739186a474696d65cb41d954fc40
        100000a7657069736f646501a4737465700aa57374617465c40481a17801a673636f7265
        7381a36d7567cb3fe8000000000000a6696d616765739185a46e616d65a476696577a573
        6861706593020203a56474797065a37c7531a47061727400a673747269646502a7737472
        65616d7381a673656e736f72c40a91cb3ff8000000000000a764726f7070656481a57661
        6c756501a8636f6d6d616e647392aa636865636b706f696e74a473746f70
        """,
    "Heartbeat": """
        83a46b696e64a9686561727462656174a473656e74cb41d954fc40200000a9616e6e6f75
        6e63656409
        """,
    "Welcome": """
        87a46b696e64a777656c636f6d65a870726f746f636f6c01a474696d65cb41d954fc4040
        0000a776657273696f6ea5302e312e30a372756ea76d75672d312d32a375726cd9226874
        74703a2f2f3132372e302e302e313a383030302f72756e732f6d75672d312d32a7776174
        63686564c3
        """,
    "Refused": """
        83a46b696e64a772656675736564a6726561736f6ea870726f746f636f6ca873656e7465
        6e6365b8696e7374616c6c207468652073616d652076657273696f6e
        """,
    "Who": """
        81a46b696e64a377686f
        """,
    "Ack": """
        83a46b696e64a361636ba77265636f72647392920102920404a673616d706c6505
        """,
    "Watch": """
        82a46b696e64a57761746368a26f6ec3
        """,
    "Command": """
        86a46b696e64a7636f6d6d616e64a26964a3632d31a46e616d65a473746f70a47768656e
        a7657069736f6465a6726561736f6ea46c617465a26279a3616e6e
        """,
    "Ping": """
        81a46b696e64a470696e67
        """,
}
RECORDS = typing.get_args(wire.AnyRecord)
FROM_SOURCE = typing.get_args(wire.FromSource)
FROM_EXPORTER = typing.get_args(wire.FromExporter)
KINDS = RECORDS + FROM_SOURCE + FROM_EXPORTER
DECODERS = (wire.decode_record, wire.decode_from_source, wire.decode_from_exporter)


def name_of(message: Any) -> str:
    return type(message).__name__


def decoder_of(kind: type) -> Any:
    if kind in RECORDS:
        return wire.decode_record
    if kind in FROM_SOURCE:
        return wire.decode_from_source
    return wire.decode_from_exporter


def as_map(message: Any) -> Dict[str, Any]:
    """The message as the map that travels."""
    found = wire.decode_plain(wire.encode(message))
    assert isinstance(found, dict)
    return found


# --- golden frames -------------------------------------------------------------------


def test_every_kind_has_a_golden_frame() -> None:
    assert sorted(GOLDEN) == sorted(kind.__name__ for kind in KINDS)
    assert sorted(map(name_of, MESSAGES)) == sorted(GOLDEN)


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_a_message_is_the_same_bytes_for_ever(message: Any) -> None:
    assert wire.encode(message).hex() == "".join(GOLDEN[name_of(message)].split())


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_golden_bytes_are_read_as_the_message(message: Any) -> None:
    data = bytes.fromhex(GOLDEN[name_of(message)])
    assert decoder_of(type(message))(data) == message


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_golden_messages_have_no_field_at_its_default(message: Any) -> None:
    """Else a golden frame would say nothing of that field."""
    missing = set(message.__struct_fields__) - set(as_map(message))
    allowed = {"SourceClosed": {"reason", "error"}}
    assert missing == allowed.get(name_of(message), set())


def test_the_protocol_and_its_limits_are_what_other_versions_expect() -> None:
    assert wire.PROTOCOL == 1
    assert (wire.MAX_HEAD_BYTES, wire.MAX_RECORD_BYTES) == (1 << 20, 1 << 19)
    assert wire.CREDIT == 4


TRACES = [
    ("mug-1", SOURCE, 0, "8a73da88a9214db2c9a2190219b22d02"),
    ("mug-1", SOURCE, 1, "f130a4b4396b611611d0f06eb1b9c675"),
    ("", SOURCE, 2**40, "d6f5639d0ba2db62a0c62387894574e9"),
    ("l\u00e4ufer \ud800", OWNER, 3, "d74e016e738c9071411fecf361398e42"),
]


@pytest.mark.parametrize(("run", "source", "number", "trace"), TRACES)
def test_trace_ids_are_the_same_for_ever(
    run: str, source: bytes, number: int, trace: str
) -> None:
    assert wire.trace_id(run, source, number) == trace
    text = run.encode("utf-8", "surrogatepass")
    hashed = len(text).to_bytes(4, "big") + text + source + number.to_bytes(8, "big")
    assert trace == hashlib.sha256(hashed).digest()[:16].hex()


SPANS = [
    ("episode", 0, "9f80b1d5f5c75b18"),
    ("phase", 2, "047972ffc9a5f605"),
    ("step", 2, "4ad0d8995e8933b1"),
]


@pytest.mark.parametrize(("name", "number", "span"), SPANS)
def test_span_ids_are_the_same_for_ever(name: str, number: int, span: str) -> None:
    assert wire.span_id(TRACES[0][3], name, number) == span


# --- other versions ------------------------------------------------------------------


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_fields_of_a_newer_version_are_ignored(message: Any) -> None:
    newer = {**as_map(message), "of_version_9": [{"deep": 1}]}
    assert decoder_of(type(message))(wire.encode_plain(newer)) == message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_fields_that_an_older_version_does_not_send_have_their_default(
    kind: Any,
) -> None:
    message = next(one for one in MESSAGES if type(one) is kind)
    fields, defaults = kind.__struct_fields__, kind.__struct_defaults__
    required = fields[: len(fields) - len(defaults)]
    whole = as_map(message)
    least = {key: whole[key] for key in ("kind", *required)}
    found = decoder_of(kind)(wire.encode_plain(least))
    assert found == kind(**{key: getattr(message, key) for key in required})


@pytest.mark.parametrize("decode", DECODERS, ids=lambda decode: decode.__name__)
def test_a_kind_of_a_newer_version_is_unknown_and_not_malformed(decode: Any) -> None:
    newer = {"kind": "of_version_9", "source": 5, "anything": [1]}
    with pytest.raises(wire.UnknownKindError, match="of_version_9") as caught:
        decode(wire.encode_plain(newer))
    assert caught.value.reason == "unknown_kind"


def test_a_message_of_the_other_side_is_unknown() -> None:
    with pytest.raises(wire.UnknownKindError):
        wire.decode_from_source(wire.encode(wire.Ping()))
    with pytest.raises(wire.UnknownKindError):
        wire.decode_from_exporter(wire.encode(wire.Heartbeat(sent=1.0)))


# --- what is refused -----------------------------------------------------------------


def record_with(**changed: Any) -> bytes:
    whole = {"kind": "log", "level": "info", "message": "m", **BASE, **changed}
    return wire.encode_plain(whole)


def raw_config(value: bytes) -> bytes:
    """A record of a run, with these bytes of msgpack as its configuration."""
    record = wire.encode_plain({"kind": "run_opened", **BASE})
    return bytes([record[0] + 1]) + record[1:] + b"\xa6config" + value


MALFORMED: List[Tuple[str, Any, bytes]] = [
    ("empty", wire.decode_record, b""),
    ("no map", wire.decode_record, b"\x93\x01\x02\x03"),
    ("no kind", wire.decode_record, wire.encode_plain(BASE)),
    ("kind is a number", wire.decode_record, record_with(kind=5)),
    ("cut", wire.decode_record, record_with()[:-1]),
    ("more after it", wire.decode_record, record_with() + b"\x00"),
    ("a field is missing", wire.decode_record, wire.encode_plain({"kind": "log"})),
    ("wrong type", wire.decode_record, record_with(message=5)),
    ("no Unicode", wire.decode_record, record_with(message="?").replace(b"?", b"\xff")),
    ("short source", wire.decode_record, record_with(source=b"abc")),
    ("seq 0", wire.decode_record, record_with(seq=0)),
    ("seq below 0", wire.decode_record, record_with(seq=-1)),
    ("seq too large for a database", wire.decode_record, record_with(seq=1 << 63)),
    ("a map in a key", wire.decode_record, raw_config(b"\x81\x80\x01")),
    ("a map in a list in a key", wire.decode_record, raw_config(b"\x81\x91\x80\x01")),
    ("too deep", wire.decode_record, raw_config(b"\x91" * 100_000 + b"\x00")),
    ("a list of 4 billion", wire.decode_record, raw_config(b"\xdd\xff\xff\xff\xff")),
    ("a list of 134 million", wire.decode_record, raw_config(b"\xdd\x08\x00\x00\x00")),
    ("a map of 4 billion", wire.decode_record, raw_config(b"\xdf\xff\xff\xff\xff")),
    ("a date out of range", wire.decode_record, raw_config(b"\xd7\xff" + b"\xff" * 8)),
    (
        "a hello of a short source",
        wire.decode_from_source,
        wire.encode(wire.Hello(protocol=1, source=b"abc", run="r", sent=1.0)),
    ),
    (
        "seqs are no numbers",
        wire.decode_from_source,
        wire.encode_plain({"kind": "records", "seqs": ["a"], "sent": 1.0}),
    ),
    (
        "a welcome without protocol",
        wire.decode_from_exporter,
        wire.encode_plain({"kind": "welcome", "time": 1.0}),
    ),
]


@pytest.mark.parametrize(
    ("decode", "data"),
    [case[1:] for case in MALFORMED],
    ids=[case[0] for case in MALFORMED],
)
def test_what_cannot_be_read_is_malformed(decode: Any, data: bytes) -> None:
    with pytest.raises(wire.MalformedError) as caught:
        decode(data)
    assert caught.value.reason == "malformed"


LIMITS = [
    (wire.decode_record, wire.MAX_RECORD_BYTES),
    (wire.decode_from_source, wire.MAX_HEAD_BYTES),
    (wire.decode_from_exporter, wire.MAX_HEAD_BYTES),
]


@pytest.mark.parametrize(("decode", "limit"), LIMITS)
def test_what_is_too_large_is_refused_before_it_is_read(
    decode: Any, limit: int
) -> None:
    with pytest.raises(wire.MalformedError, match=f"more than {limit}"):
        decode(b"\x80" * (limit + 1))


def test_a_record_of_the_largest_size_is_read() -> None:
    room = wire.MAX_RECORD_BYTES - len(record_with(message="x" * 70_000)) + 70_000
    data = record_with(message="x" * room)
    assert len(data) == wire.MAX_RECORD_BYTES
    assert isinstance(wire.decode_record(data), wire.LogLine)


def nested(depth: int) -> List[Any]:
    value: List[Any] = []
    for _ in range(depth):
        value = [value]
    return value


UNENCODABLE = [object(), "\ud800", 1 << 64, -(1 << 63) - 1, {object()}]


@pytest.mark.parametrize("value", UNENCODABLE, ids=as_name)
def test_what_cannot_be_encoded_is_malformed_too(value: Any) -> None:
    with pytest.raises(wire.MalformedError):
        wire.encode_plain(value)
    with pytest.raises(wire.MalformedError, match="cannot encode RunOpened"):
        wire.encode(wire.RunOpened(**BASE, config=value))


def test_what_is_too_deep_to_be_encoded_is_malformed() -> None:
    deep = nested(100_000)
    try:
        with pytest.raises(wire.MalformedError):
            wire.encode_plain(deep)
    finally:
        while deep:  # freeing it all at once would be as deep
            deep = deep.pop()


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        MESSAGES[0].run = "another"


# --- nothing else escapes ------------------------------------------------------------


def only_wire_errors(data: bytes) -> None:
    for decode in (*DECODERS, wire.decode_plain, wire.unpack_totals):
        try:
            decode(data)
        except wire.WireError:
            pass


@given(st.binary(max_size=200))
@example(b"\x81\x80\x01")
def test_any_bytes_raise_nothing_but_wire_errors(data: bytes) -> None:
    only_wire_errors(data)


@st.composite
def damaged(draw: Any) -> bytes:
    """A golden frame with some bytes changed, cut out, or taken from another."""
    names = sorted(GOLDEN)
    data = bytearray.fromhex(GOLDEN[draw(st.sampled_from(names))])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        if draw(st.booleans()):
            other = bytes.fromhex(GOLDEN[draw(st.sampled_from(names))])
            start = draw(st.integers(0, len(other)))
            new = other[start : start + draw(st.integers(0, 40))]
        else:
            new = draw(st.binary(max_size=4))
        data[at : at + draw(st.integers(0, 8))] = new
    return bytes(data)


@given(damaged())
def test_damaged_messages_raise_nothing_but_wire_errors(data: bytes) -> None:
    only_wire_errors(data)


# --- round trips ---------------------------------------------------------------------

INTEGERS = st.integers(0, (1 << 63) - 1)
FLOATS = st.floats(allow_nan=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=5,
)
SIMPLE: Dict[Any, Any] = {
    bool: st.booleans(),
    int: INTEGERS,
    float: FLOATS,
    str: st.text(max_size=10),
    bytes: st.binary(min_size=16, max_size=16),
    Any: PLAIN,
}


def values_of(kind: Any) -> Any:
    """A strategy for an annotation of the wire."""
    if kind in SIMPLE:
        return SIMPLE[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Union:
        return st.one_of(
            [values_of(one) for one in arguments if one is not type(None)] + [st.none()]
        )
    if origin is dict:
        return st.dictionaries(values_of(str), values_of(arguments[1]), max_size=3)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    return messages_of(kind)


def messages_of(kind: Type[Any]) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {name: values_of(hints[name]) for name in kind.__struct_fields__}
    if "seq" in fields:
        fields["seq"] = st.integers(1, (1 << 63) - 1)
    return st.builds(kind, **fields)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=40)
@given(data=st.data())
def test_any_message_comes_back_as_it_was(kind: Any, data: Any) -> None:
    message = data.draw(messages_of(kind))
    assert decoder_of(kind)(wire.encode(message)) == message


@given(PLAIN)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert wire.decode_plain(wire.encode_plain(value)) == value


@given(st.lists(st.floats(allow_nan=False), max_size=20))
def test_totals_come_back_bit_by_bit(values: List[float]) -> None:
    data = wire.pack_totals(values)
    assert len(data) == 8 * len(values)
    assert list(wire.unpack_totals(data)) == values


def test_totals_may_be_no_number() -> None:
    found = wire.unpack_totals(wire.pack_totals([math.nan, math.inf, -0.0]))
    assert math.isnan(found[0])
    assert found[1] == math.inf
    assert math.copysign(1.0, found[2]) == -1.0


@pytest.mark.parametrize("size", [1, 7, 9])
def test_totals_of_other_sizes_are_malformed(size: int) -> None:
    with pytest.raises(wire.MalformedError):
        wire.unpack_totals(b"x" * size)


SLOTS = [
    (wire.MetricSpec("n", "counter"), 1),
    (wire.MetricSpec("n", "gauge"), 2),
    (wire.MetricSpec("n", "histogram", buckets=(1.0, 2.0)), 4),
]


@pytest.mark.parametrize(("spec", "slots"), SLOTS, ids=lambda one: str(one)[:30])
def test_a_series_takes_the_totals_of_its_type(
    spec: wire.MetricSpec, slots: int
) -> None:
    assert wire.slots(spec) == slots


# --- ranges --------------------------------------------------------------------------


@given(st.lists(st.integers(1, 60)))
def test_ranges_hold_the_numbers_and_no_others(numbers: List[int]) -> None:
    found = wire.ranges(numbers)
    held = [n for first, last in found for n in range(first, last + 1)]
    assert held == sorted(set(numbers))
    gaps = [b[0] - a[1] for a, b in zip(found, found[1:])]
    assert all(gap > 1 for gap in gaps), "neighbours are one range"


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9))))
def test_joined_ranges_hold_what_their_parts_held(
    parts: List[Tuple[int, int]],
) -> None:
    given_parts = [(first, first + more) for first, more in parts]
    numbers = [n for first, last in given_parts for n in range(first, last + 1)]
    assert wire.joined(given_parts) == wire.ranges(numbers)
