"""The view of a Monty: what is said of a state, however odd, and whose runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from exporter.live import monty
from exporter.live.custom import Seen, SeenImage
from exporter.live.looks import OURS, Looks
from exporter.settings import Live, Settings
from tests.monty_played import module, moment
from tests.test_view import HOSTILE, NOW, Document, a_source, an_episode

VIEW = monty.MontyView()
VIEW.render = OURS.render


def seen(state: Any, target: str | None = "mug", **changes: Any) -> Seen:
    values: dict[str, Any] = {
        "run": {"run": "r", "success": ("correct", "correct_mlh")},
        "source": a_source(),
        "episode": an_episode(target=target, outcome=None),
        "step": 17,
        "state": state,
        "at": NOW - 3,
        "now": NOW,
    }
    return Seen(**{**values, **changes})


def an_image(name: str, shape: tuple[int, ...] = (64, 64)) -> SeenImage:
    return SeenImage(shape, "|u1", 1, b"", NOW - 4, f"./at/{name}", (0.25, 2.0))


def shown(state: Any, target: str | None = "mug", **changes: Any) -> str:
    return Document(VIEW.draw(seen(state, target, **changes))["where"]).words


def believing(**said: Any) -> str:
    """What is shown of one learning module that says this."""
    return shown({"learning_modules": {"LM_0": said}})


# --- is it right ----------------------------------------------------------------------


def test_a_moment_is_told_at_a_glance() -> None:
    played = moment(17, 1)
    text = shown(played["state"])
    for part in (
        "3 s ago",
        "Epoch 1",
        "Episode 4",
        "Step 17",
        "Phase matching",
        "Target mug turned 0° 45° 0°, at 0.000 1.500 0.000",
        "Most likely ✓ mug right",
        "3 of 8 possible 688 hypotheses",
        "searching",
        "move_tangentially",
        "rotation 21.2°",
        "Agent agent_id_0 Position 0.000 1.500 0.217 Rotation 1.00 0.00 0.17 0.00",
        "Goals waiting 4,096 Highest confidence 0.80",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("most_likely", "objects", "said"),
    [
        ("mug", ["mug"], "✓ mug right"),
        ("bowl", ["bowl"], "✗ bowl wrong"),
        ("bowl", None, "✗ bowl wrong"),
        ("new_object0", ["mug"], "✓ new_object0 (mug) right"),
        ("new_object0", ["cup", "mug"], "✓ new_object0 (cup, mug) right"),
        ("new_object0", ["cup"], "✗ new_object0 (cup) wrong"),
        ("new_object0", list("abcd"), "✗ new_object0 (a, b, c, …) wrong"),
        ("new_object0", [], "new_object0 not known whether right"),
        (None, [], "– undecided"),
    ],
)
def test_right_is_what_stands_for_the_target(
    most_likely: Any, objects: Any, said: str
) -> None:
    assert said in believing(most_likely=most_likely, objects=objects)


def test_without_a_target_nothing_is_right_or_wrong() -> None:
    state = {"learning_modules": {"LM_0": {"most_likely": "mug", "objects": ["mug"]}}}
    text = shown(state, target=None)
    assert "Target –" in text
    assert "mug not known whether right" in text
    assert "✓" not in text
    assert "✗" not in text


def test_a_terminal_state_says_what_was_detected() -> None:
    said = {"most_likely": "bowl", "objects": ["bowl"], "detected": "mug"}
    text = believing(**said, terminal_state="match")
    assert "match detected ✓ mug" in text
    assert "✗ bowl wrong" in text
    said = {"most_likely": "new_object1", "objects": ["mug"]}
    text = believing(**said, detected="new_object1", terminal_state="match")
    assert "match detected ✓ new_object1 (mug)" in text


def test_how_far_what_is_first_is_ahead() -> None:
    assert "17.40 evidence +2.10 over bowl" in believing(
        evidence=17.4, second="bowl", margin=2.1
    )
    assert "before bowl" in believing(second="bowl", margin=None)
    assert "+2.10" in believing(second=None, margin=2.1)


def test_many_learning_modules_are_counted_by_what_they_mean() -> None:
    beliefs = [
        {"most_likely": "new_object0", "objects": ["mug"], "terminal_state": "match"},
        {"most_likely": "new_object7", "objects": ["mug"], "terminal_state": "match"},
        {"most_likely": "new_object7", "objects": ["cup"]},
        {"most_likely": None, "objects": [], "terminal_state": "time_out"},
    ]
    state = {"learning_modules": {f"LM_{n}": one for n, one in enumerate(beliefs)}}
    text = shown(state)
    assert "Most likely ✓ new_object0 (mug) right, held by 2 of 4 modules" in text
    assert "Modules that are right 2 of 4 1 disagree, 1 undecided" in text
    assert "Terminal state match 2 of 4 time_out 1 of 4" in text
    for one in beliefs:
        one.update(most_likely="cup", objects=["cup"])
    assert "Modules that are right 0 of 4 all agree" in shown(state)


def test_of_very_many_learning_modules_the_first_are_shown() -> None:
    state = {"learning_modules": {f"LM_{n}": {} for n in range(100)}}
    text = shown(state)
    assert "LM_31" in text
    assert "LM_32" not in text
    assert "and 68 more modules" in text


def test_the_outcome_says_whether_it_is_a_success() -> None:
    for outcome, mark in (("correct_mlh", "✓"), ("confused", "✗")):
        text = shown({"phase": "matching"}, episode=an_episode(outcome=outcome))
        assert f"Outcome {mark} {outcome}" in text
    assert "Outcome –" in shown({"phase": "matching"})


# --- poses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "degrees"),
    [
        ((0, 45, 0), (0, 45, 0), 0),
        ((0, 0, 0), (0, 90, 0), 90),
        ((180, 0, 180), (0, 180, 0), 0),  # the same one, written differently
        ((0, 0, 350), (0, 0, 10), 20),
        ((90, 0, 0), (0, 90, 0), 120),
        ((90, 0, 90), (0, 90, 90), 120),
        # As a Monty 0.55 has written them into its CSV, with its own rotation_error.
        (
            (0.31954473, 18.08888355, -126.73546596),
            (163.9505498, 348.16614362, 137.59996198),
            174.0039,
        ),
        (
            (36.08018906, -20.00227025, -95.05594981),
            (49.98909653, 20.27207484, 298.32287462),
            53.5488,
        ),
    ],
)
def test_the_angle_between_two_rotations(one: Any, other: Any, degrees: float) -> None:
    assert monty.angle(one, other) == pytest.approx(degrees, abs=1e-4)
    assert monty.angle(other, one) == pytest.approx(degrees, abs=1e-4)


def test_the_angles_are_about_fixed_axes_in_the_order_x_y_z() -> None:
    def turned(axis: int, angle: float) -> Any:
        made = np.eye(3)
        a, b = [(1, 2), (2, 0), (0, 1)][axis]
        made[a, a] = made[b, b] = math.cos(math.radians(angle))
        made[b, a] = math.sin(math.radians(angle))
        made[a, b] = -made[b, a]
        return made

    def matrix(euler: Any) -> Any:
        x, y, z = (turned(axis, angle) for axis, angle in enumerate(euler))
        return z @ y @ x

    random = np.random.default_rng(7)
    for one, other in random.uniform(-180, 180, (50, 2, 3)):
        between = (np.trace(matrix(one) @ matrix(other).T) - 1) / 2
        assert monty.angle(tuple(one), tuple(other)) == pytest.approx(
            math.degrees(math.acos(between)), abs=1e-4
        )


def test_how_far_a_rotation_is_off_is_told_of_the_target_only() -> None:
    state: Any = {"target": {"object": "mug", "rotation": [0, 45, 0]}}
    said = {"rotation": [0, 57, 0], "location": [0.0123, 1.5, -0.0001]}
    state["learning_modules"] = {"LM_0": {"most_likely": "mug", **said}}
    assert "12° off 0° 57° 0° at 0.012 1.500 0.000" in shown(state)
    state["learning_modules"] = {"LM_0": {"most_likely": "bowl", **said}}
    assert "– off 0° 57° 0°" in shown(state)


def test_there_is_no_angle_to_what_is_not_known() -> None:
    assert monty.angle((), (0, 0, 0)) is None
    assert monty.angle((0, math.nan, 0), (0, 0, 0)) is None


# --- what is sensed -------------------------------------------------------------------


def test_sensors_are_shown_with_their_images_colours_first() -> None:
    names = ["other depth", "view_finder", "patch depth", "view_finder depth", "patch"]
    found = monty.sensors(
        {"patch": {"on_object": False}, "view_finder": {}},
        {name: an_image(name) for name in names},
    )
    assert [(one.name, [name for name, _ in one.images]) for one in found] == [
        ("patch", ["patch", "patch depth"]),
        ("view_finder", ["view_finder", "view_finder depth"]),
        ("other", ["other depth"]),
    ]
    assert [one.on_object for one in found] == [False, None, None]


def test_a_sensor_says_what_it_feels_in_few_digits() -> None:
    sensor = {
        "on_object": True,
        "location": [0.0123, 1.5, -0.0004],
        "features": {"hsv": [0.123456, 0.5, 1.0], "n": 3, "odd": {"a": 1}},
    }
    html = VIEW.draw(
        seen({"sensors": {"patch": sensor}}, images={"patch": an_image("patch")})
    )["where"]
    found = Document(html)
    assert "patch 4 s ago" in found.words
    assert "on object at 0.012 1.500 0.000 3 features" in found.words
    assert "hsv 0.123 0.5 1 n 3 odd {'a': 1}" in found.words
    ((_, image),) = [one for one in found.tags if one[0] == "img"]
    assert image["src"] == image["data-src"] == "./at/patch"
    assert "0.25" in found.words, "what its darkest colour stands for"


def test_the_state_as_it_came_is_there_too() -> None:
    drawn = VIEW.draw(seen({"phase": "matching", "mine": 7}, run_state={"lr": 0.1}))
    text = Document(drawn["state"]).words
    assert "State as it came" in text
    assert "mine 7" in text
    assert "lr 0.1" in text


# --- odd states -----------------------------------------------------------------------


@pytest.mark.parametrize("state", [None, {}, {"observation": 1}, "cut", [1], 7])
def test_what_is_no_montys_state_is_shown_as_ever(state: Any) -> None:
    assert VIEW.draw(seen(state)) == {}
    assert VIEW.draw(seen({"phase": "matching"}, source=None)) == {}


ODD = [None, math.nan, math.inf, -1e300, "", HOSTILE, [], {}, [None], True, {"a": [1]}]
PATHS = [
    "phase", "target", "target.object", "target.rotation", "learning_modules",
    "learning_modules.LM_0", "sensors", "sensors.patch", "motor", "motor.actions",
    "motor.agent", "goals", "goals.count", "goals.highest_confidence",
    *(f"learning_modules.LM_0.{key}" for key in module(1, 0, "mug")[0]),
    *(f"sensors.patch.{key}" for key in ("on_object", "location", "features")),
    "sensors.patch.features.hsv", "motor.agent.position", "motor.agent.rotation",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_each_key_may_be_missing_or_odd(path: str) -> None:
    *above, last = path.split(".")
    for odd in (..., *ODD):
        state = moment(20)["state"]
        within = state
        for name in above:
            within = within[name]
        if odd is ...:
            del within[last]
        else:
            within[last] = odd
        drawn = VIEW.draw(seen(state))
        assert set(drawn) == {"where", "images", "state"}
        assert "<script>" not in "".join(drawn.values())


plain = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(1 << 63), 1 << 63)
    | some.floats()
    | some.text(max_size=9),
    lambda one: (
        some.lists(one, max_size=4)
        | some.dictionaries(some.text(max_size=9), one, max_size=4)
    ),
    max_leaves=12,
)


@given(some.dictionaries(some.sampled_from(sorted(monty.KNOWN)), plain, min_size=1))
def test_whatever_comes_is_drawn(state: Mapping[str, Any]) -> None:
    assert "data-source" in VIEW.draw(seen(state))["where"]


def test_strange_names_are_text() -> None:
    said = {"most_likely": HOSTILE, "objects": [HOSTILE], "second": HOSTILE}
    said.update(detected=HOSTILE, terminal_state=HOSTILE)
    state = {
        "phase": HOSTILE,
        "target": {"object": HOSTILE},
        "learning_modules": {HOSTILE: said},
        "sensors": {HOSTILE: {"on_object": True, "features": {HOSTILE: HOSTILE}}},
        "motor": {"actions": [{"name": HOSTILE, HOSTILE: HOSTILE}]},
    }
    images = {HOSTILE: an_image(HOSTILE)}
    for html in VIEW.draw(seen(state, HOSTILE, images=images)).values():
        found = Document(html)
        assert not {"script", "style", "iframe"} & {tag for tag, _ in found.tags}
        for tag, attrs in found.tags:
            assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        assert not html or HOSTILE[:40] in found.text


# --- whose runs -----------------------------------------------------------------------


def looks(**views: Any) -> Looks:
    return Looks(Settings.of({"live": {"views": views}}).live.views)


def test_it_draws_runs_of_that_kind_and_no_others() -> None:
    for found in (looks(), Looks(Live().views)):
        look = found.of("quick", "monty")
        assert look.name == "monty"
        assert look.aside is not None
        assert look.mistakes == []
        assert found.of("quick", None) is OURS
        assert found.of("quick", "gymnasium") is OURS


def test_a_view_of_the_users_comes_first_replaces_it_or_switches_it_off(
    tmp_path: Path,
) -> None:
    mine = {"match": "quick", "templates": str(tmp_path)}
    assert looks(mine=mine).of("quick", "monty").name == "mine"
    assert looks(mine=mine).of("slow", "monty").name == "monty"
    replaced = looks(monty={**mine, "match": "monty"})
    assert replaced.of("slow", "monty").aside is None
    assert looks(monty=None).of("slow", "monty") is OURS
