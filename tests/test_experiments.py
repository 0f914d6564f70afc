"""The experiments as a person starts them, before a real exporter."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiment_hooks import wire
from experiment_hooks.testing import Listener
from experiments import pictures
from experiments.linear import Memory, Tiles, Values
from experiments.q_learning import QLearning, SwingUp
from tests.support import (
    ROOT,
    Child,
    Exporter,
    Finished,
    Pythons,
    eventually,
    promtool_says,
)

SMALL = [
    "experiment=quick",
    "experiment.episodes=20",
    "experiment.epochs=2",
    "experiment.eval_episodes=3",
]


@pytest.fixture(scope="module")
def shared_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    exporter = Exporter(tmp_path_factory.mktemp("exporter"))
    try:
        yield exporter.start()
    finally:
        exporter.stop()


@pytest.fixture
def exporter(shared_exporter: Exporter, show_log: Callable[[Any], None]) -> Exporter:
    show_log(shared_exporter.log)
    return shared_exporter


@pytest.fixture
def start(run_python: Pythons, exporter: Exporter) -> Callable[..., Child]:
    """``start("experiment=quick")``: watched, and from an empty directory."""

    def started(*overrides: str) -> Child:
        main = ROOT / "experiments" / "__main__.py"
        return run_python.start(main, *overrides, env=exporter.env)

    return started


@pytest.fixture
def experiment(start: Callable[..., Child]) -> Callable[..., Finished]:
    """The same, to its end."""

    def ended(*overrides: str, status: int = 0) -> Finished:
        child = start(*overrides)
        found = child.wait(80)
        assert found == status, child.output
        return Finished(found, child.output)

    return ended


def run_of(exporter: Exporter, output: str) -> dict[str, Any]:
    """The run whose page the experiment has told, once it has ended."""
    page = re.search(r"/runs/(\S+)", output)
    assert page, output

    def ended() -> dict[str, Any]:
        run = exporter.run(page[1])
        assert run["ended"], run
        return run

    return eventually(ended)


Counts = dict[tuple[str, str], float]


def episodes_of(exporter: Exporter, run: str) -> Counts:
    """How many /metrics says have ended, by mode and outcome."""
    found = exporter.samples("experiment_episodes_total", run=run)
    return {(one.labels["mode"], one.labels["outcome"]): one.value for one in found}


def in_mode(mode: str, counts: Counts) -> float:
    return sum(number for (of, _), number in counts.items() if of == mode)


def more_episodes(exporter: Exporter, run: str, than: Counts) -> Counts:
    """The first that are more in both modes."""

    def found() -> Counts:
        now = episodes_of(exporter, run)
        assert all(
            in_mode(mode, now) > in_mode(mode, than) for mode in ("train", "eval")
        )
        return now

    return eventually(found, 60)


def watched_to_its_end(exporter: Exporter, child: Child) -> Counts:
    """Scrapes while it runs, and returns what is counted when it has ended."""
    page = re.search(r"/runs/(\S+)", child.wait_for(r"/runs/\S+"))
    assert page
    early = more_episodes(exporter, page[1], than={})
    late = more_episodes(exporter, page[1], than=early)
    assert promtool_says(exporter.get("/metrics").body) == ""
    assert child.status is None, "so far it was running"
    assert child.wait(80) == 0, child.output
    assert promtool_says(exporter.get("/metrics").body) == ""
    end = more_episodes(exporter, page[1], than=late)
    for before, after in ((early, late), (late, end)):
        assert [key for key in before if not before[key] <= after[key]] == []
    return end


def test_quick_learns_to_succeed_and_says_so(
    exporter: Exporter, start: Callable[..., Child]
) -> None:
    child = start("experiment=quick")
    counts = watched_to_its_end(exporter, child)
    rates = [int(rate) for rate in re.findall(r"(\d+)% in evaluation", child.output)]
    assert len(rates) == 4
    assert rates[0] < 50 < rates[-1]

    run = run_of(exporter, child.output)
    assert (run["experiment"], run["state"]) == ("q_learning", "completed")
    assert run["expected"]["episodes"] == {"train": 160, "eval": 80}
    assert run["config"]["experiment"]["episodes"] == 160
    assert run["facts"]["hydra"]["overrides"] == ["experiment=quick"]
    assert run["sources"] == {"live": 0, "ended": 1, "lost": 0}
    train, evaluation = run["modes"]["train"], run["modes"]["eval"]
    assert (train["episodes"], evaluation["episodes"]) == (160, 80)
    assert set(train["outcomes"]) == {"success", "failure"}
    assert evaluation["outcomes"]["success"] == evaluation["successes"]
    assert counts == {
        (mode, outcome): number
        for mode in ("train", "eval")
        for outcome, number in run["modes"][mode]["outcomes"].items()
    }

    last = exporter.episodes(run["run"], "?mode=eval&limit=1000")[-1]
    assert set(last["results"]) == {"return", "length"}
    assert set(last["scores"]) == {"left", "none", "right"}
    assert (last["target"], last["epoch"], last["index"]) == ("Acrobot-v1", 3, 79)
    value = exporter.value
    name = run["run"]
    assert value("experiment_replayed_transitions_total", run=name) >= 160 * 128 * 20
    assert value("experiment_td_error", run=name) > 0
    assert value("experiment_epsilon", run=name) == 0.05 * (1 - 3 / 4)
    for mode, phase in (("train", "act"), ("train", "learn"), ("eval", "act")):
        spent = {"run": name, "mode": mode, "phase": phase}
        assert value("experiment_phase_seconds_total", **spent) > 0


def test_the_same_seed_gives_the_same_numbers_watched_or_not(
    exporter: Exporter,
    experiment: Callable[..., Finished],
    run_python: Pythons,
) -> None:
    def lines(output: str) -> list[str]:
        return re.findall(r"^seed .*", output, re.MULTILINE)

    main = ROOT / "experiments" / "__main__.py"
    seed = "experiment.seed=3"
    watched = lines(experiment(*SMALL, seed).output)
    assert len(watched) == 2
    alone = run_python(main, *SMALL, seed, env={"EPISIGHT_DISABLED": "1"})
    assert lines(alone.output) == watched
    assert "episight:" not in alone.output
    nowhere = {"EPISIGHT_ENDPOINT": "tcp://127.0.0.1:1"}
    unheard = run_python(main, *SMALL, seed, env=nowhere)
    assert lines(unheard.output) == watched
    assert unheard.output.count("nobody is listening") == 1


def test_parallel_seeds_are_one_run_of_several_processes(
    exporter: Exporter, experiment: Callable[..., Finished]
) -> None:
    small = [*SMALL[1:], "experiment.deadline=150", "experiment.workers=2"]
    run = run_of(exporter, experiment("experiment=parallel", *small).output)
    assert (run["experiment"], run["state"]) == ("q_learning", "completed")
    assert run["config"]["experiment"]["workers"] == 2
    assert run["sources"] == {"live": 0, "ended": 3, "lost": 0}
    assert run["modes"]["train"]["episodes"] == 2 * 20
    assert run["expected"]["episodes"] == {"train": 2 * 20, "eval": 2 * 2 * 3}
    assert run["modes"]["eval"]["successes"] is not None


def test_cartpole_has_several_episodes_open_at_once(
    exporter: Exporter, start: Callable[..., Child]
) -> None:
    child = start(
        "experiment=cartpole", "experiment.episodes=300", "experiment.epochs=3"
    )
    name = re.search(r"/runs/(\S+)", child.wait_for(r"/runs/\S+"))

    def open_now() -> bool:
        assert name
        found = exporter.episodes(name[1], "?limit=1000")
        return sum(episode["outcome"] is None for episode in found) == 8

    eventually(open_now, 60)
    assert child.wait(80) == 0, child.output
    run = run_of(exporter, child.output)
    # Those that are open when the last one is done are closed.
    assert run["modes"]["train"]["episodes"] >= 300
    outcomes = run["modes"]["train"]["outcomes"]
    assert {"terminated", "closed"} <= set(outcomes)
    assert run["modes"]["train"]["successes"] == outcomes.get("truncated", 0)


def test_an_unknown_experiment_is_answered_with_those_there_are(
    experiment: Callable[..., Finished],
) -> None:
    said = experiment("experiment=moonshot", status=1)
    assert "moonshot" in said.output
    for name in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert name.stem in said.output


def test_an_experiment_that_fails_ends_with_a_status_and_a_failed_run(
    exporter: Exporter, experiment: Callable[..., Finished]
) -> None:
    said = experiment(*SMALL, "experiment.batch=-1", status=1)
    run = run_of(exporter, said.output)
    assert run["state"] == "failed"
    assert run["error"]["type"] == "ValueError"
    (episode,) = exporter.episodes(run["run"])
    assert (episode["outcome"], episode["error"]["type"]) == ("error", "ValueError")


def test_an_experiment_that_cannot_be_made_is_a_failed_run_of_its_name(
    exporter: Exporter, experiment: Callable[..., Finished]
) -> None:
    said = experiment("+experiment.sead=3", status=1)
    run = run_of(exporter, said.output)
    assert (run["experiment"], run["state"]) == ("q_learning", "failed")
    assert "sead" in run["error"]["message"]


def test_who_looks_sees_the_acrobot_and_the_action_values(run_python: Pythons) -> None:
    def shown() -> list[wire.Moment]:
        samples = [one.message for one in listener.heard(wire.Sample)]
        moments = [moment for sample in samples for moment in sample.moments]
        return [moment for moment in moments if moment.images]

    with Listener(watched=True) as listener:
        main = ROOT / "experiments" / "__main__.py"
        env = {"EPISIGHT_ENDPOINT": listener.endpoint}
        child = run_python.start(main, env=env)
        moment = listener.wait_for(shown, 30)[0]
        listener.command("stop", when="now")
        assert child.wait(30) == 0, child.output
    shapes = {image.name: tuple(image.shape) for image in moment.images}
    assert shapes == {"frame": (96, 96, 3), "value": (24, 24)}
    assert set(moment.scores) == {"left", "none", "right"}
    state = wire.decode_plain(moment.state)
    assert (len(state["observation"]), state["reward"]) == (4, -1.0)


def test_a_worker_that_fails_fails_the_run(
    exporter: Exporter, experiment: Callable[..., Finished]
) -> None:
    overrides = ["experiment.workers=2", "experiment.batch=-1"]
    said = experiment("experiment=parallel", *overrides, status=1)
    assert run_of(exporter, said.output)["state"] == "failed"


@pytest.mark.parametrize(("name", "sources"), [("q_learning", 1), ("parallel", 5)])
def test_a_stop_from_the_page_ends_it_early_and_well(
    exporter: Exporter, start: Callable[..., Child], name: str, sources: int
) -> None:
    child = start(f"experiment={name}")
    page = re.search(r"/runs/(\S+)", child.wait_for(r"/runs/\S+"))
    assert page
    eventually(lambda: exporter.run(page[1])["sources"]["live"] == sources, 30)
    # The run is there before the experiment is, and can be stopped when that opens it.
    eventually(lambda: exporter.run(page[1])["modes"], 30)
    stop = {"command": "stop", "when": "episode"}
    assert exporter.post(f"/api/v1/runs/{page[1]}/commands", stop).status == 202
    assert child.wait(30) == 0, child.output
    assert "stopped as asked" in child.output
    assert run_of(exporter, child.output)["state"] == "stopped"


@pytest.mark.parametrize(
    ("name", "more", "sources"),
    [("q_learning", [], 1), ("parallel", ["experiment.workers=2"], 3)],
)
def test_ctrl_c_stops_all_processes_of_a_run(
    exporter: Exporter,
    start: Callable[..., Child],
    name: str,
    more: list[str],
    sources: int,
) -> None:
    child = start(f"experiment={name}", *more)
    page = re.search(r"/runs/(\S+)", child.wait_for(r"/runs/\S+"))
    assert page
    eventually(lambda: exporter.run(page[1])["sources"]["live"] == sources, 30)
    eventually(lambda: exporter.run(page[1])["modes"], 30)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert child.wait(30) != 0
    run = run_of(exporter, child.output)
    assert (run["state"], run["reason"]) == ("stopped", "user")
    assert run["sources"] == {"live": 0, "ended": sources, "lost": 0}


def test_it_writes_nothing_where_it_is_started(
    experiment: Callable[..., Finished], tmp_path: Path
) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    experiment(*SMALL)
    written = {path.name for path in tmp_path.iterdir()} - before
    assert written <= {"experiment_0.log", "state"}  # by this test itself


# --- the parts -----------------------------------------------------------------------


def test_each_state_has_a_tile_in_each_tiling() -> None:
    tiles = Tiles((1.0, 2.0), tilings=8, tiles=4)
    states = np.random.default_rng(0).uniform(-3, 3, (1000, 2))
    found = tiles(states)
    assert found.shape == (1000, 8)
    assert found.min() >= 0
    assert found.max() < tiles.size
    assert (np.sort(found, axis=1) == found).all()  # one of each tiling, in order
    assert (tiles(states[7]) == found[7]).all()


def test_near_states_share_tiles_and_far_ones_none() -> None:
    tiles = Tiles((1.0, 1.0), tilings=8, tiles=4)
    here = tiles(np.array([0.1, 0.1]))
    assert (here == tiles(np.array([0.15, 0.1]))).sum() > 0
    assert (here == tiles(np.array([0.9, -0.9]))).sum() == 0


def test_the_ends_of_a_circle_meet() -> None:
    ends = np.array([[-np.pi + 1e-9], [np.pi - 1e-9]])
    line, circle = Tiles((np.pi,)), Tiles((np.pi,), circles=1)
    one, other = circle(ends)
    assert (one == other).all() or (one == other).sum() >= circle.tilings - 1
    one, other = line(ends)
    assert (one == other).sum() == 0


def test_values_are_sums_of_weights_and_go_towards_their_targets() -> None:
    values = Values(Tiles((1.0,), tilings=2, tiles=4), actions=2)
    active = np.array([[0, 5], [1, 5]])
    actions, targets = np.array([0, 1]), np.array([4.0, -2.0])
    assert values.learn(active, actions, targets, alpha=0.5).tolist() == [4.0, -2.0]
    assert values(active).tolist() == [[2.0, 1.0], [-0.5, -1.0]]
    assert values(active[0]).tolist() == [2.0, -0.5]
    assert values.learn(active, actions, targets, alpha=0.5).tolist() == [2.0, -1.0]


def test_a_full_memory_forgets_the_oldest() -> None:
    memory = Memory(capacity=3, tilings=2)
    for number in range(5):
        memory.add(np.full(2, number), number, np.full(2, -number), number == 4)
    now, action, then, end = memory.sample(np.random.default_rng(0), 200)
    assert set(action) == {2, 3, 4}
    assert (now[:, 0] == action).all()
    assert (then[:, 1] == -action).all()
    assert (end == (action == 4)).all()


@pytest.mark.parametrize(
    "picture",
    [pictures.rods(0.3, -2.0), pictures.cart(1.0, 0.2)],
    ids=["rods", "cart"],
)
def test_a_picture_is_small_and_in_colour(picture: Any) -> None:
    assert (picture.shape, picture.dtype) == ((96, 96, 3), np.uint8)
    assert len({tuple(pixel) for row in picture for pixel in row}) == 4


def test_a_cart_that_left_the_track_is_drawn_at_the_edge() -> None:
    assert (pictures.cart(-9.0, 0.2)[:, :3] != 255).any()


def test_only_to_be_up_in_time_is_a_success() -> None:
    env = SwingUp(deadline=2)
    state, _ = env.reset(seed=1)
    assert env.observation_space.contains(state)
    _, _, up, late, info = env.step(0)
    assert (up, late, info["is_success"]) == (False, False, False)
    env.unwrapped.state = np.array([np.pi, 0.0, 0.0, 0.0])  # upright
    _, _, up, late, info = env.step(1)
    assert (up, late, info["is_success"]) == (True, True, True)
    assert env.render().shape == (96, 96, 3)


def test_two_learners_of_one_seed_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EPISIGHT_DISABLED", "1")
    plan = QLearning(
        seed=5, deadline=60, episodes=6, epochs=2, eval_episodes=2, batches=2
    )
    assert plan() == plan()
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert (first, second) == (third, fourth)
