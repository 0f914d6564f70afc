"""What users give comes out plain, bounded, the same each time, and never raises."""

import argparse
import array
import collections
import copy
import dataclasses
import enum
import math
import os
import pathlib
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, Dict, List

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiment_hooks import plain, walk, wire

ROOT = pathlib.Path(__file__).parent.parent
EXACT = (type(None), bool, int, float, str)
NAN = float("nan")
ROBOT = "\U0001f916"


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Mode(str, enum.Enum):
    EVAL = "eval"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Pose:
    x: float
    parts: List[int]


@dataclasses.dataclass
class Broken:
    good: int = 1

    @property
    def bad(self) -> int:
        raise ValueError("no")


class Struct(msgspec.Struct):
    a: int
    b: str = "x"


Point = collections.namedtuple("Point", "x y")


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError("a user's __str__ was called")

    __repr__ = __str__


class Number(float):
    __repr__ = Text.__str__


class Thing:
    """A user's object: it must not be asked for anything."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise AssertionError("a user's __repr__ was called")

    __str__ = __repr__


THING = "<" + Thing.__module__ + ".Thing>"


class Endless:
    """What many a ``__getattr__`` is by mistake; here where it is asked for sure."""

    def __iter__(self) -> Any:
        return iter(self)

    __getitem__ = __len__ = __iter__


Sequence.register(Endless)


class SilentError(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise ValueError

    __str__ = __repr__ = Thing.__repr__


class Unhashable(type):
    def __eq__(cls, other: object) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]


class Frozen(dict):
    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class Unknown:
    pass


class Lazy(Mapping):
    """A mapping of which one value cannot be had, as OmegaConf's may be."""

    def __getitem__(self, key: str) -> Any:
        if key == "bad":
            raise KeyError(key)
        return key.upper()

    def __iter__(self) -> Any:
        return iter(["a", "bad", "b"])

    def __len__(self) -> int:
        return 3


def is_plain(value: Any) -> bool:
    if type(value) is list:
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(type(k) is str for k in value) and all(map(is_plain, value.values()))
    return type(value) in EXACT


def nested(levels: int, value: Any = "end") -> Any:
    for _ in range(levels):
        value = [value]
    return value


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types, NaN equal to NaN, -0.0 unlike 0.0."""
    return repr(one) == repr(other)


# --- what comes out ------------------------------------------------------------------

VALUES = {
    "none": (None, None),
    "bool": (True, True),
    "int": (5, 5),
    "the least int": (-(2**63), -(2**63)),
    "the largest int": (2**64 - 1, 2**64 - 1),
    "a huge int": (2**64, "18446744073709551616"),
    "a monstrous int": (-(10**9999), "... an integer of 33216 bits"),
    "nan": (NAN, NAN),
    "inf": (-math.inf, -math.inf),
    "minus zero": (-0.0, -0.0),
    "text": ("täxt", "täxt"),
    "lone surrogate": ("a\ud800b", "a?b"),
    "str subclass": (Text("a"), "a"),
    "float subclass": (Number(1.5), 1.5),
    "tuple": ((1, "a"), [1, "a"]),
    "list": ([1, [2]], [1, [2]]),
    "deque": (collections.deque([1, 2]), [1, 2]),
    "set of int": ({3, -1, 2}, [-1, 2, 3]),
    "set of str": ({"b", "a"}, ["a", "b"]),
    "set of many kinds": ({"b", 1, None, (2, 3)}, [1, [2, 3], "b", None]),
    "empty set": (set(), []),
    "frozenset": (frozenset([frozenset([2, 1])]), [[1, 2]]),
    "range": (range(10**9), "range(0, 1000000000)"),
    "bytes": (b"ab\xff", r"b'ab\xff'"),
    "bytearray": (bytearray(b"ab"), "b'ab'"),
    "many bytes": (b"a" * 100, "b'" + "a" * 64 + "'... 36 more bytes"),
    "memoryview": (memoryview(b"ab"), "<builtins.memoryview>"),
    "complex": (1 + 2j, "(1+2j)"),
    "decimal": (Decimal("1.50"), "1.50"),
    "fraction": (Fraction(1, 3), "1/3"),
    "enum": (Color.RED, "Color.RED"),
    "int enum": (Level.HIGH, 3),
    "str enum": (Mode.EVAL, "eval"),
    "flag": (Access.READ, "Access.READ"),
    "path": (pathlib.PurePosixPath("/a/b"), "/a/b"),
    "datetime": (
        datetime(2026, 11, 21, 3, tzinfo=timezone.utc),
        "2026-11-21T03:00:00+00:00",
    ),
    "date": (date(2026, 11, 21), "2026-11-21"),
    "timedelta": (timedelta(minutes=1), 60.0),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "dataclass": (Pose(1.0, [2]), {"x": 1.0, "parts": [2]}),
    "namedtuple": (Point(1, 2), {"x": 1, "y": 2}),
    "struct": (Struct(1), {"a": 1, "b": "x"}),
    "namespace": (types.SimpleNamespace(lr=0.1), {"lr": 0.1}),
    "arguments": (argparse.Namespace(lr=0.1), {"lr": 0.1}),
    "ordered dict": (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "mapping": (Lazy(), {"a": "A", "bad": "... unreadable: KeyError", "b": "B"}),
    "dict view": ({"a": 1}.keys(), ["a"]),
    "array.array": (array.array("d", [1.0, 2.0]), [1.0, 2.0]),
    "iterator": (iter([1]), "<builtins.list_iterator>"),
    "object": (Thing(), THING),
    "class": (Thing, THING),
    "function": (nested, f"<{__name__}.nested>"),
    "builtin": (len, "<builtins.len>"),
    "exception": (ValueError("x"), "<builtins.ValueError>"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_out_plain(name: str) -> None:
    value, expected = VALUES[name]
    assert same(plain.plain(value), expected)


@pytest.mark.parametrize("name", VALUES)
def test_what_is_taken_decodes_to_the_plain_value(name: str) -> None:
    value, expected = VALUES[name]
    assert same(wire.decode_plain(plain.take(value)), expected)


KEYS = {
    "int": ({1: "a"}, {"1": "a"}),
    "none and bool": ({None: 1, True: 2}, {"None": 1, "True": 2}),
    "float": ({1.5: 1}, {"1.5": 1}),
    "tuple": ({(1, "a"): 1}, {"(1, 'a')": 1}),
    "enum": ({Color.RED: 1}, {"Color.RED": 1}),
    "numpy": ({np.int64(3): 1}, {"3": 1}),
    "bytes": ({b"a": 1}, {"b'a'": 1}),
    "surrogate": ({"\ud800": 1}, {"?": 1}),
    "object": ({Thing: 1}, {THING: 1}),
    "two alike": ({1: "a", "1": "b"}, {"1": "a", "1 (2)": "b"}),
    "three alike": (
        {1: "a", "1": "b", np.str_("1 (2)"): "c"},
        {"1": "a", "1 (2)": "b", "1 (2) (3)": "c"},
    ),
    "long": ({"k" * 200: 1}, {"k" * 104 + "... 96 more": 1}),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_become_text_and_none_is_lost(name: str) -> None:
    value, expected = KEYS[name]
    assert plain.plain(value) == expected
    assert wire.decode_plain(plain.take(value)) == expected


def test_a_thousand_keys_of_one_text_are_kept_quickly() -> None:
    keys = [type("Key", (), {})() for _ in range(900)]
    found = plain.plain(dict.fromkeys(keys, 1))
    assert len(found) == 900
    assert set(found.values()) == {1}


def test_attrs_classes_give_their_fields() -> None:
    attr = pytest.importorskip("attr")
    kind = attr.make_class("Attrs", ["a", "b"])
    assert plain.plain(kind(1, 2)) == {"a": 1, "b": 2}


def test_an_omegaconf_config_gives_its_values_and_says_what_is_missing() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create(
        {"lr": 0.1, "copy": "${lr}", "missing": "???", "list": [1, {"a": None}]}
    )
    assert plain.plain(config) == {
        "lr": 0.1,
        "copy": 0.1,
        "missing": "... unreadable: MissingMandatoryValue",
        "list": [1, {"a": None}],
    }


# --- bounds --------------------------------------------------------------------------

CUTS = {
    "a long list": (list(range(2000)), lambda v: v[-1] == "... 1001 more"),
    "a long tuple": (tuple(range(2000)), lambda v: v[-1] == "... 1001 more"),
    "a long deque": (
        collections.deque(range(2000)),
        lambda v: v[-1] == "... 1001 more",
    ),
    "a large dict": (
        {str(i): i for i in range(2000)},
        lambda v: v["..."] == "... 1001 more" and len(v) == 1000,
    ),
    "a dict with dots": (
        {"...": 1, **{str(i): i for i in range(2000)}},
        lambda v: v["..."] == 1 and v["... (1000)"] == "... 1002 more",
    ),
    "a large set": (set(range(2000)), lambda v: v[-1] == "... 1001 more"),
    "a huge set": (set(range(5000)), lambda v: v == ["... 5000 more"]),
    "a large set of many kinds": (
        {*range(2000), "a"},
        lambda v: v == ["... 2001 more"],
    ),
    "many lists": (
        [[1] * 100] * 100,
        lambda v: v[9][-1] == "... 11 more" and v[10:] == ["... 90 more"],
    ),
    "a list as deep as may be": (nested(16), lambda v: v == nested(16)),
    "a deeper list": (
        nested(17),
        lambda v: v == nested(16, "... deeper than 16"),
    ),
    "a deep dict": (
        {"a": {"b": nested(20)}},
        lambda v: v == {"a": {"b": nested(14, "... deeper than 16")}},
    ),
    "a text that fits": ("a" * 60000, lambda v: v == "a" * 60000),
    "a long text": (
        "a" * 10**6,
        lambda v: v.startswith("a" * 60000) and v.endswith(" more characters"),
    ),
    "a long text of wide letters": (
        ROBOT * 10**6,
        lambda v: len(v) > 15000 and v.endswith(" more characters"),
    ),
    "long texts": (
        ["a" * 40000] * 5,
        lambda v: v[0] == "a" * 40000 and v[-1] == "... 3 more, cut at 64 KB",
    ),
    "long keys": (
        {ROBOT * 1000 + str(i): 1 for i in range(900)},
        lambda v: v["..."].endswith(" more, cut at 64 KB"),
    ),
    "wide, deep and long": (
        {
            ROBOT + str(i): {str(j): nested(12, "x" * 500)}
            for i in range(9)
            for j in "ab"
        },
        lambda v: len(v) == 9,
    ),
    "long texts at the bottom": (
        nested(15, ["x" * 10**5] * 100),
        lambda v: "64 KB" in repr(v),
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_what_is_too_much_is_cut_and_says_so(name: str) -> None:
    value, holds = CUTS[name]
    found = plain.plain(value)
    assert is_plain(found)
    assert holds(found)
    data = plain.take(value)
    assert len(data) <= plain.MAX_BYTES
    assert wire.decode_plain(data) == found


def test_smaller_bounds_may_be_asked_for() -> None:
    value = [["a" * 100] * 10] * 10
    assert plain.plain(value, depth=1)[0] == "... deeper than 1"
    assert plain.plain(value, nodes=3) == [["a" * 100, "... 9 more"], "... 9 more"]
    assert len(wire.encode_plain(plain.plain(value, size=1000))) <= 1000
    assert plain.plain("a" * 600, size=512).endswith(" more characters")


def test_a_cycle_is_marked() -> None:
    value: Dict[str, Any] = {"a": [1]}
    value["a"].append(value)
    assert plain.plain(value) == {"a": [1, "... again (a cycle)"]}
    array = np.empty((), object)
    array[()] = array
    assert plain.plain(array) == "... again (a cycle)"


def test_the_same_list_twice_is_no_cycle() -> None:
    shared = [1]
    assert plain.plain([shared, shared]) == [[1], [1]]


def test_what_shares_much_ends_soon() -> None:
    value: Any = frozenset()
    for _ in range(100):
        value = frozenset([value, (value,)])
    assert len(plain.take(value)) <= plain.MAX_BYTES
    keys: Any = 1
    for _ in range(100):
        keys = Frozen({keys: 1, (keys,): 2})
    assert len(plain.take({keys: 1})) <= plain.MAX_BYTES


def test_a_large_list_is_not_copied() -> None:
    class Counting(list):
        def __iter__(self) -> Any:
            raise AssertionError("iterated")

    value = Counting([0.0]) * 10**6
    tracemalloc.start()
    try:
        plain.take(value)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000


# --- it never raises -----------------------------------------------------------------


def raising(name: str, error: BaseException, *bases: type) -> Any:
    """An object of a class whose one method raises."""

    def method(*_: Any) -> Any:
        raise error

    body: Dict[str, Any] = {"__iter__": lambda _: iter("ab"), "__len__": lambda _: 2}
    body["__getitem__"] = lambda _, key: 1
    body[name] = method
    return type("Raising", bases, body)()


BROKEN = {
    "a mapping's len": raising("__len__", ValueError(), Mapping),
    "a mapping's iter": raising("__iter__", ValueError(), Mapping),
    "a mapping's getitem": raising("__getitem__", ValueError(), Mapping),
    "a sequence's len": raising("__len__", ValueError(), Sequence),
    "a sequence's iter": raising("__iter__", ValueError(), Sequence),
    "a dict's items": raising("items", ValueError(), dict),
    "a class": raising("__getattribute__", ValueError()),
    "a property": Broken(),
    "an array interface": type(
        "Raising", (), {"__array_interface__": property(lambda _: 1 / 0)}
    )(),
    "an error whose text raises": raising("__iter__", SilentError(), Sequence),
    "an error for ever": raising("__iter__", RuntimeError("no"), Sequence),
    "a recursion": Endless(),
    "a class whose module is odd": type("Odd", (), {"__module__": 5})(),
    "a class that cannot be hashed": Unhashable("Odd", (), {})(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_value_leaves_a_mark_and_spares_the_others(name: str) -> None:
    value = BROKEN[name]
    found = plain.plain({"a": 1, "broken": value, "z": [value, 2.0]})
    assert is_plain(found)
    assert (found["a"], found["z"][1]) == (1, 2.0)
    assert wire.decode_plain(plain.take(value)) == plain.plain(value)
    assert isinstance(plain.text(value), str)
    assert is_plain(plain.scores(value))
    assert is_plain(plain.numbers(value)[0])
    assert plain.image("a", value, 0) is None


def test_a_mark_names_the_error_and_not_its_text() -> None:
    value = raising("__iter__", ValueError("secret"), Sequence)
    assert plain.plain(value) == "... unreadable: ValueError"


def test_an_interrupt_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        plain.plain(raising("__iter__", KeyboardInterrupt(), Sequence))


def test_a_container_that_keeps_changing_is_marked() -> None:
    class Changing(Sequence):
        asked = 0

        def __iter__(self) -> Any:
            self.asked += 1
            raise RuntimeError("deque mutated during iteration")

        __getitem__ = __len__ = __iter__

    value = Changing()
    assert plain.plain([value]) == ["... changed while it was read"]
    assert value.asked == walk.ATTEMPTS


def test_a_container_that_changed_once_is_read_again() -> None:
    class Changing(Sequence):
        asked = 0

        def __iter__(self) -> Any:
            self.asked += 1
            if self.asked == 1:
                raise RuntimeError("deque mutated during iteration")
            return iter([1, 2])

        __getitem__ = __len__ = __iter__

    assert plain.plain([Changing()]) == [[1, 2]]


def test_at_the_end_of_the_stack_it_returns_a_mark_and_does_not_abort() -> None:
    """Python 3.8 ends the process where a RecursionError is not left in time."""
    code = """if True:
        from experiment_hooks import plain
        value = {"a": [[[[[[[[[[1], {(1, 2): 2}]]]]]]]]], "b": {"c": {"d": [1] * 50}}}
        whole = plain.take(value)
        found = []
        def dive():
            found.append(plain.take(value))
            found.append(plain.scores(value))
            dive()
        try:
            dive()
        except RecursionError:
            pass
        assert found[0] == whole and len(found) > 500, len(found)
        print("alive")
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(ROOT),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    assert done.stdout.split()[-1:] == [b"alive"], done.stdout


# --- the same value, the same output -------------------------------------------------


def test_the_order_of_hashes_does_not_show() -> None:
    code = """if True:
        import sys
        from experiment_hooks import plain
        class Thing: pass
        mixed = {"b", "a", 1, None, ("x", "y"), frozenset("qwertz"), Thing, Thing()}
        value = {"a": set("qwertzuiop"), "b": mixed, frozenset("asdf"): 1}
        sys.stdout.buffer.write(plain.take(value))
    """
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=str(ROOT),
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
    assert b"0x" not in found.pop()


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers()
    | st.decimals()
    | st.fractions()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
    | st.sampled_from([Color.RED, Level.HIGH, Thing, Unknown(), np.float32(0.5)])
    | st.builds(np.arange, st.integers(0, 100))
)
HASHABLE = st.none() | st.booleans() | st.integers() | st.text(st.characters())
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(HASHABLE | st.tuples(HASHABLE, HASHABLE), inner),
        st.sets(HASHABLE),
        st.builds(types.SimpleNamespace, a=inner),
    ),
    max_leaves=30,
)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(ANYTHING)
def test_anything_gives_the_same_bytes_twice_and_they_decode(value: Any) -> None:
    data = plain.take(value)
    assert plain.take(value) == data
    assert plain.take(copy.deepcopy(value)) == data
    assert len(data) <= plain.MAX_BYTES
    found = plain.plain(value)
    assert is_plain(found)
    assert same(wire.decode_plain(data), found)


@settings(max_examples=100)
@given(ANYTHING, st.integers(0, 20), st.integers(0, 50), st.integers(0, 2000))
def test_within_any_bounds_the_output_is_plain(
    value: Any, depth: int, nodes: int, size: int
) -> None:
    found = plain.plain(value, depth=depth, nodes=nodes, size=size)
    assert is_plain(found)
    wire.encode_plain(found)


# --- another thread ------------------------------------------------------------------


def test_another_thread_may_change_everything_meanwhile() -> None:
    value: Dict[str, Any] = {
        "dict": {},
        "list": [],
        "set": set(),
        "deque": collections.deque(),
        "ordered": collections.OrderedDict(),
        "array": np.zeros(100),
        "small": np.zeros(8),
        "lazy": collections.UserDict(),
        "nested": {"a": {"b": [{"c": {}}]}},
    }
    changes = 0
    done = threading.Event()

    def change() -> None:
        nonlocal changes
        inner = value["nested"]["a"]["b"][0]["c"]
        while not done.is_set():
            changes += 1
            key = str(changes % 97)
            for name in ("dict", "ordered", "lazy"):
                value[name][key] = {key: [changes]}
                value[name].pop(str(changes % 89), None)
            inner[key] = inner.copy() if changes % 50 else inner.clear()
            value["list"].append({key: changes})
            value["set"].add(changes % 97)
            value["set"].discard(changes % 89)
            value["deque"].append(key)
            value["array"][changes % 100] = math.nan if changes % 2 else changes
            value["small"][:] = changes
            value[key] = changes
            value.pop(str(changes % 89), None)
            if changes % 100 == 0:
                value["list"].clear()
                value["deque"].clear()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=change, daemon=True)
    deadline = time.monotonic() + 20
    taken = 0
    try:
        thread.start()
        while (taken < 200 or changes < 200) and time.monotonic() < deadline:
            found = wire.decode_plain(plain.take(value))
            assert found == walk.CHANGED or "dict" in found
            taken += 1
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join(10)
    assert taken >= 200
    assert changes >= 200


# --- scores, results, texts ----------------------------------------------------------

SCORES = {
    "a dict": ({"a": 1.0, "b": 2}, {"a": 1.0, "b": 2.0}),
    "nan": ({"a": NAN}, {"a": NAN}),
    "numpy numbers": ({"a": np.float32(0.5), "b": np.array(2)}, {"a": 0.5, "b": 2.0}),
    "bools": ({"a": True}, {"a": 1.0}),
    "no numbers": ({"a": "1", "b": None, "c": [1], "d": 10**30, "e": 1}, {"e": 1.0}),
    "odd keys": ({1: 1.0, "1": 2.0, "\ud800": 3.0}, {"1": 1.0, "1 (2)": 2.0, "?": 3.0}),
    "a list": ([0.5, "x", 2], {"0": 0.5, "2": 2.0}),
    "a tuple": ((0.5,), {"0": 0.5}),
    "a namedtuple": (Point(1, 2), {"x": 1.0, "y": 2.0}),
    "a dataclass": (Pose(1.0, []), {"x": 1.0}),
    "an array": (np.array([0.5, 2]), {"0": 0.5, "1": 2.0}),
    "a long array": (np.arange(100), {str(i): float(i) for i in range(100)}),
    "an array with two axes": (np.zeros((2, 2)), {}),
    "a large array with two axes": (np.zeros((20, 20)), {}),
    "an array without axes": (np.array(1.0), {}),
    "a number": (1.0, {}),
    "a text": ("abc", {}),
    "none": (None, {}),
    "an object": (Thing(), {}),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_the_numbers_by_name(name: str) -> None:
    value, expected = SCORES[name]
    found = plain.scores(value)
    assert same(found, expected)
    assert all(type(number) is float for number in found.values())


def test_of_many_scores_the_largest_stay_in_their_order() -> None:
    values = {str(i): float(i % 500) for i in range(1000)}
    found = plain.scores(values)
    assert len(found) == 256
    assert min(found.values()) == 372.0
    assert list(found) == sorted(found, key=int)
    assert plain.scores([3.0, NAN, 1.0, 2.0], most=2) == {"0": 3.0, "3": 2.0}
    assert plain.scores([NAN, NAN, 1.0], most=1) == {"2": 1.0}


def test_of_very_many_scores_the_first_are_looked_at() -> None:
    found = plain.scores(range(10**9))
    assert found == {}
    found = plain.scores(np.arange(10**6))
    assert max(found.values()) == plain.LOOKED_AT - 1
    found = plain.scores([float(i) for i in range(20000)])
    assert max(found.values()) == plain.LOOKED_AT - 1


def test_scores_are_a_copy() -> None:
    values = {"a": 1.0}
    plain.scores(values)["b"] = 2.0
    assert values == {"a": 1.0}


def test_results_are_the_first_numbers_and_the_rest_is_counted() -> None:
    assert plain.numbers({"a": 1, "b": "x", "c": 2.5}) == ({"a": 1.0, "c": 2.5}, 1)
    many = {str(i): i for i in range(5000)}
    odd = {"a": 1.0, "huge": 10**400, "large": 2**60, "length": 3, "yes": True}
    assert plain.numbers(odd) == (
        {"a": 1.0, "large": 2.0**60, "length": 3.0, "yes": 1.0},
        1,
    )
    whole, _ = plain.numbers({"length": 3, "return": 2.5})
    assert [type(number) for number in whole.values()] == [float, float]
    kept, omitted = plain.numbers(many)
    assert list(kept) == [str(i) for i in range(16)]
    assert omitted == 5000 - 16
    assert plain.numbers(many, most=3)[1] == 4997
    assert plain.numbers(None) == ({}, 0)


TEXTS = {
    "text": ("mug", "mug"),
    "number": (3, "3"),
    "numpy number": (np.float64(0.5), "0.5"),
    "none": (None, "None"),
    "tuple": (("mug", 3), "('mug', 3)"),
    "enum": (Color.RED, "Color.RED"),
    "object": (Thing(), THING),
    "str subclass": (Text("a"), "a"),
    "surrogate": ("\ud800", "?"),
    "long": ("a" * 300, "a" * 232 + "... 68 more"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_anything_has_a_short_text(name: str) -> None:
    value, expected = TEXTS[name]
    assert plain.text(value) == expected
    assert plain.text(value, most=2) == expected[:2] or len(plain.text(value, 2)) == 2


def test_what_is_made_by_an_integration_is_taken_as_it_is() -> None:
    value = {"a": [1.5, None, True, "x"], "b": {"c": float("inf")}}
    assert plain.made(value).data == plain.take(value)


def test_what_is_not_plain_after_all_is_taken_as_any_value_is() -> None:
    class Odd:
        pass

    odd = {"odd": Odd(), 3: "three"}
    assert plain.made(odd).data == plain.take(odd)
    large = ["x" * 1000] * 1000
    assert plain.made(large).data == plain.take(large)
    assert len(plain.made(large).data) <= plain.MAX_BYTES
