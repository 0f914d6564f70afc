"""EpisightWrapper and EpisightVectorWrapper: what an exporter hears of environments.

Runs on every Python that has Gymnasium, 3.8 with its last Gymnasium included.
"""

import copy
import json
import pickle
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import pytest

gymnasium = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
np = pytest.importorskip("numpy")
cloudpickle = pytest.importorskip("cloudpickle")

from gymnasium.utils.env_checker import check_env  # noqa: E402
from gymnasium.vector import AutoresetMode, SyncVectorEnv  # noqa: E402

import experiment_hooks as eh  # noqa: E402
from experiment_hooks import wire  # noqa: E402
from experiment_hooks.integrations.gymnasium import (  # noqa: E402
    EpisightVectorWrapper,
    EpisightWrapper,
)
from experiment_hooks.testing import Listener  # noqa: E402
from tests.support import Pythons, eventually  # noqa: E402

START_METHODS = ["fork", "spawn", "forkserver"]


class Countdown(gymnasium.Env):  # type: ignore[misc, name-defined]
    """Ends after ``steps`` steps of reward 1; its observations are drawn."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        steps: int = 3,
        last_info: Mapping[str, Any] = {},
        render_mode: Any = None,
        raises_at: int = 0,
    ) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,))
        self.action_space = gymnasium.spaces.Discrete(2)
        self.render_mode = render_mode
        self.rendered = 0
        self._steps, self._last_info = steps, last_info
        self._raises_at = raises_at
        self._done = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._done = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self._done += 1
        if self._done == self._raises_at:
            raise RuntimeError("the motor burns")
        ended = self._done >= self._steps
        return self._observation(), 1.0, ended, False, self._last_info if ended else {}

    def render(self) -> Any:
        self.rendered += 1
        return np.full((8, 6, 3), self._done % 256, np.uint8)

    def _observation(self) -> Any:
        return self.np_random.random(2).astype(np.float32)


def play(env: Any, steps: int, seed: int = 1) -> List[Any]:
    """Step with a fixed choice of actions, reset where it ends; all that came out."""
    env.action_space.seed(seed)
    seen: List[Any] = [env.reset(seed=seed)]
    for _ in range(steps):
        seen.append(env.step(env.action_space.sample()))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Hears what this process's runs tell, all of it once they are closed."""
    with Listener() as heard:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", heard.endpoint)
        yield heard
    assert heard.complaints == []


def outcomes(listener: Listener) -> List[Tuple[str, int, float]]:
    return [
        (episode.outcome, episode.steps, episode.results["return"])
        for episode in listener.episodes()
    ]


def look(listener: Listener, env: Any) -> Tuple[Any, wire.Moment]:
    """Step until who looks has seen a picture; the state of that step, and the step."""
    env.reset()

    def seen() -> Any:
        for _ in range(50):
            env.step(env.action_space.sample())
        samples = [source.sample for source in listener.sources()]
        moments = [moment for sample in samples if sample for moment in sample.moments]
        return [moment for moment in moments if moment.images]

    (moment,) = eventually(seen)
    return wire.decode_plain(moment.state), moment


# --- one environment -----------------------------------------------------------------


def test_each_stretch_from_a_reset_to_an_end_is_an_episode(listener: Listener) -> None:
    with eh.open_run("gym"):
        env = EpisightWrapper(Countdown(steps=3), mode="eval")
        env.epoch = 2
        play(env, steps=6, seed=7)
        env.close()
    first, second = listener.episodes()
    assert first.results == {"return": 3.0, "length": 3.0}
    assert (first.mode, first.epoch, first.seed) == ("eval", 2, 7)
    assert (first.target, second.seed) == ("Countdown", None)


@pytest.mark.parametrize(
    ("info", "outcome"),
    [
        ({}, "terminated"),
        ({"is_success": True}, "success"),
        ({"is_success": False}, "failure"),
        ({"is_success": np.float32(1.0)}, "success"),
        ({"is_success": None}, "terminated"),
    ],
)
def test_the_outcome_is_what_the_last_info_says_else_how_it_ended(
    listener: Listener, info: Dict[str, Any], outcome: str
) -> None:
    with eh.open_run("gym"):
        play(EpisightWrapper(Countdown(3, info)), steps=3)
    assert outcomes(listener) == [(outcome, 3, 3.0)]


def test_a_time_limit_truncates(listener: Listener) -> None:
    with eh.open_run("gym"):
        env = gymnasium.wrappers.TimeLimit(Countdown(steps=9), max_episode_steps=2)
        play(EpisightWrapper(env), steps=2)
    assert outcomes(listener) == [("truncated", 2, 2.0)]


def test_a_reset_or_a_close_ends_the_episode_that_is_open(listener: Listener) -> None:
    with eh.open_run("gym"):
        env = EpisightWrapper(Countdown(steps=9))
        play(env, steps=2)
        play(env, steps=1)
        env.close()
        env.close()
    assert outcomes(listener) == [("reset", 2, 2.0), ("closed", 1, 1.0)]


def test_a_reset_that_is_never_stepped_is_no_episode(listener: Listener) -> None:
    with eh.open_run("gym"):
        env = EpisightWrapper(Countdown())
        env.reset()
        env.reset()
        env.close()
    assert listener.episodes() == []


def test_an_environment_that_raises_ends_its_episode_as_an_error(
    listener: Listener,
) -> None:
    with eh.open_run("gym"):
        env = EpisightWrapper(Countdown(steps=9, raises_at=2))
        with pytest.raises(RuntimeError, match="the motor burns"):
            play(env, steps=3)
    (episode,) = listener.episodes()
    assert (episode.outcome, episode.steps) == ("error", 1)
    assert episode.error
    assert episode.error.message == "the motor burns"
    (closed,) = listener.records(wire.RunClosed)
    assert closed.ending == "completed"  # it was caught


def test_an_exception_between_the_steps_ends_the_open_episode_as_it_ends_the_run(
    listener: Listener,
) -> None:
    def train() -> None:
        with eh.open_run("gym"):
            play(EpisightWrapper(Countdown(steps=9)), steps=2)
            raise KeyError("the learner's")

    with pytest.raises(KeyError):
        train()
    (episode,) = listener.episodes()
    assert (episode.outcome, episode.steps) == ("error", 2)
    assert episode.error
    assert episode.error.type == "KeyError"


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        (
            lambda observation: {"left": 0.25, "right": 0.5},
            {"left": 0.25, "right": 0.5},
        ),
        (lambda observation: np.array([0.25, 0.5]), {"0": 0.25, "1": 0.5}),
        ("q", {"a": 1.0}),
    ],
    ids=["mapping", "array", "key of info"],
)
def test_scores_come_from_a_function_or_from_info(
    listener: Listener, scores: Any, shown: Dict[str, float]
) -> None:
    with eh.open_run("gym"):
        env = Countdown(3, {"q": {"a": 1.0}})
        play(EpisightWrapper(env, scores=scores), steps=3)
    assert listener.episodes()[0].scores == shown


def test_nothing_is_rendered_or_scored_at_each_step_while_nobody_looks(
    listener: Listener,
) -> None:
    scored: List[Any] = []
    env = Countdown(steps=500, render_mode="rgb_array")
    with eh.open_run("gym"):
        play(EpisightWrapper(env, scores=scored.append, images=True), steps=500)
    assert outcomes(listener) == [("terminated", 500, 500.0)]
    assert env.rendered == 0
    assert len(scored) < 10


def test_who_looks_sees_the_newest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener(watched=True) as listener:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", listener.endpoint)
        env = Countdown(10**9, render_mode="rgb_array")
        with eh.open_run("gym"):
            state, moment = look(
                listener, EpisightWrapper(env, None, "eval", list, True)
            )
    assert set(state) == {"observation", "action", "reward"}
    assert list(moment.scores.values()) == state["observation"]
    (image,) = moment.images
    assert (image.name, tuple(image.shape)) == ("frame", (8, 6, 3))


def test_a_rendered_frame_is_that_of_the_step_it_is_shown_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through the wrappers that Gymnasium itself puts around an environment."""
    spec = gymnasium.envs.registration.EnvSpec("Countdown-v0", entry_point=Countdown)
    env = gymnasium.make(spec, steps=10**9, render_mode="rgb_array")
    with Listener(watched=True) as listener:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", listener.endpoint)
        with eh.open_run("gym"):
            look(listener, EpisightWrapper(env, images=True))
    checked = 0
    for sample in listener.heard(wire.Sample):
        for moment in sample.message.moments:
            for image in moment.images:
                pixels = np.frombuffer(sample.parts[image.part], image.dtype)
                assert pixels.reshape(image.shape).shape == (8, 6, 3)
                assert set(pixels) == {moment.step % 256}
                checked += 1
    assert checked


def test_of_a_vector_the_frame_of_the_shown_environment_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wide(Countdown):
        def render(self) -> Any:
            return np.zeros((8, 9, 3), np.uint8)

    makes = [
        lambda: Countdown(10**9, render_mode="rgb_array"),
        lambda: Wide(3, render_mode="rgb_array"),
    ]
    with Listener(watched=True) as listener:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", listener.endpoint)
        with eh.open_run("gym"):
            envs = EpisightVectorWrapper(SyncVectorEnv(makes), images=True)
            state, moment = look(listener, envs)
    (image,) = moment.images
    assert image.name == "frame"
    # Which it is depends on whose step is the next when somebody looks.
    assert tuple(image.shape) == {0: (8, 6, 3), 1: (8, 9, 3)}[state["env"]]


def test_who_looks_at_a_vector_sees_one_of_its_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def picture(observation: Any) -> Dict[str, Any]:
        return {"map": np.zeros((4, 5), np.uint8)}

    with Listener(watched=True) as listener:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", listener.endpoint)
        envs = vector(AutoresetMode.SAME_STEP, 10**9, 2)
        with eh.open_run("gym"):
            state, moment = look(listener, EpisightVectorWrapper(envs, images=picture))
    assert state["env"] in (0, 1)
    assert len(state["observation"]) == 2
    assert state["action"] in (0, 1)
    assert [image.name for image in moment.images] == ["map"]


def test_its_episode_takes_phases_and_events_of_ones_own(listener: Listener) -> None:
    with eh.open_run("gym"):
        env = EpisightWrapper(Countdown(steps=3))
        env.reset()
        env.step(0)
        with env.episode.phase("plan"):
            env.episode.event("replanned", reason="wind")
            env.step(0)
        trace = env.episode.trace_id
        env.episode.finish(wind="strong")
        env.step(0)
    (episode,) = listener.episodes()
    assert (episode.outcome, episode.attributes) == ("terminated", {"wind": "strong"})
    assert [(phase.name, phase.steps) for phase in episode.phases] == [("plan", 1)]
    assert [event.name for event in episode.events] == ["replanned"]
    assert trace == wire.trace_id(episode.run, episode.source, episode.number)


def test_where_no_episode_is_open_its_episode_does_nothing(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    def use(env: Any) -> None:
        assert env.episode.closed
        with env.episode.phase("plan"):
            env.episode.event("replanned")
        env.episode.finish("by hand")

    broken = EpisightWrapper(Odd(steps=1))
    env = EpisightWrapper(Countdown(steps=1))
    with eh.open_run("gym"):
        use(env)
        env.reset()
        use(env)
        env.step(0)
        use(env)
        for _ in range(2):
            broken.reset()
            broken.step(0)
        use(broken)
    (one, other) = listener.episodes()
    assert {one.outcome, other.outcome} == {"terminated", "ended"}
    assert (one.phases, other.phases) == ((), ())
    (closed,) = listener.records(wire.SourceClosed)
    assert closed.dropped == {}


# --- which run -----------------------------------------------------------------------


def test_the_run_that_is_given_comes_before_the_current_one(listener: Listener) -> None:
    with eh.open_run("given") as given, eh.open_run("newer") as newer:
        play(EpisightWrapper(Countdown(), run=given), steps=3)
    assert newer.id != given.id
    assert [episode.run for episode in listener.episodes()] == [given.id]


def test_a_run_that_has_ended_gets_no_more_episodes_and_no_successor(
    listener: Listener,
) -> None:
    env = EpisightWrapper(Countdown(steps=9))
    with eh.open_run("gym"):
        play(env, steps=2)
    play(env, steps=30)
    env.close()
    assert eh.current_run() is None
    assert [episode.outcome for episode in listener.episodes()] == ["ended"]


def test_an_environment_goes_on_with_the_next_run(listener: Listener) -> None:
    env = EpisightWrapper(Countdown())
    runs = []
    for _ in range(2):
        with eh.open_run("gym") as run:
            runs.append(run.id)
            play(env, steps=3)
    assert [episode.run for episode in listener.episodes()] == runs
    assert outcomes(listener) == [("terminated", 3, 3.0)] * 2


def test_without_a_run_the_wrapper_opens_one_that_ends_with_the_process(
    listener: Listener, run_python: Pythons
) -> None:
    run_python(
        """
        import time
        import gymnasium
        import experiment_hooks as eh
        from experiment_hooks.integrations.gymnasium import EpisightWrapper

        for mode in ("train", "eval"):
            env = gymnasium.make("CartPole-v1")
            env = EpisightWrapper(env, mode=mode, success={"terminated"})
            env.reset(seed=1)
            while not env.step(1)[2]:
                pass
            env.close()
        while not eh.current_run().url:  # one that is never answered ends at once
            time.sleep(0.001)
        """,
        env={"EPISIGHT_ENDPOINT": listener.endpoint},
    )
    (opened,) = listener.records(wire.RunOpened)
    (closed,) = listener.records(wire.RunClosed)
    assert (opened.experiment, closed.ending) == ("CartPole-v1", "completed")
    assert [(e.mode, e.success) for e in listener.episodes()] == [
        ("train", True),
        ("eval", True),
    ]


def test_success_is_a_success_in_a_run_that_the_wrapper_opens(
    listener: Listener,
) -> None:
    for said in (True, False):
        play(EpisightWrapper(Countdown(2, {"is_success": said})), steps=2)
    run = eh.current_run()
    assert run is not None
    run.close()
    ended = {episode.outcome: episode.success for episode in listener.episodes()}
    assert ended == {"success": True, "failure": False}


def test_disabled_hooks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPISIGHT_DISABLED", "1")
    with eh.open_run("gym"):
        env = EpisightWrapper(Countdown())
        seen = play(env, steps=4)
        with env.episode.phase("plan"):
            env.step(0)
    assert same(seen, play(Countdown(), steps=4))


# --- the environment is the same -----------------------------------------------------


def same(one: Any, other: Any) -> bool:
    return pickle.dumps(one) == pickle.dumps(other)


def test_the_same_seed_gives_the_same_trajectory_with_and_without_it() -> None:
    bare = gymnasium.make("CartPole-v1")
    with eh.open_run("gym"):
        wrapped = EpisightWrapper(
            gymnasium.make("CartPole-v1"), scores=lambda seen: seen
        )
        assert same(play(wrapped, steps=300), play(bare, steps=300))


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_a_wrapped_environment_passes_gymnasiums_own_check() -> None:
    with eh.open_run("gym"):
        check_env(EpisightWrapper(Countdown()), skip_render_check=True)


def test_its_spec_makes_it_again() -> None:
    env = EpisightWrapper(gymnasium.make("CartPole-v1"), mode="eval", scores=len)
    again = gymnasium.make(env.spec)
    assert "EpisightWrapper" in env.spec.to_json()
    assert isinstance(again, EpisightWrapper)
    assert again.mode == "eval"


def test_copies_and_pickles_have_neither_run_nor_episode() -> None:
    with eh.open_run("gym") as run:
        env = EpisightWrapper(Countdown(steps=9), run=run)
        play(env, steps=2)
        for copied in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
            # Stepped on, it goes on as the environment does, and is no episode.
            assert same(copied.step(0), Countdown.step(copy.deepcopy(env.unwrapped), 0))
        make = cloudpickle.dumps(lambda: EpisightWrapper(Countdown(steps=2)))
        play(cloudpickle.loads(make)(), steps=2)
        env.close()


class Odd(Countdown):
    """Returns what no environment should."""

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], None)


def test_what_goes_wrong_in_the_wrapper_is_logged_once_and_stays_there(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    with eh.open_run("gym"):
        env = EpisightWrapper(Odd(steps=3))
        for _ in range(2):
            env.reset()
            for _ in range(3):
                env.step(0)
        env.close()
    assert [episode.outcome for episode in listener.episodes()] == ["ended"]
    told = [r for r in caplog.records if "goes on unwatched" in r.getMessage()]
    assert len(told) == 1


def test_a_reward_that_is_no_number_leaves_the_return_unknown(
    listener: Listener,
) -> None:
    class Goals(Countdown):
        def step(self, action: Any) -> Any:
            seen, _, *rest = super().step(action)
            return (seen, np.array([1.0, 2.0]), *rest)

    with eh.open_run("gym"):
        play(EpisightWrapper(Goals()), steps=3)
    (episode,) = listener.episodes()
    assert (episode.outcome, episode.results["length"]) == ("terminated", 3.0)


def test_a_stop_goes_through_and_ends_the_episode_as_stopped(
    listener: Listener,
) -> None:
    env = EpisightWrapper(Countdown(steps=10**9))
    with eh.open_run("gym", stoppable=True):
        env.reset()
        env.step(0)
        listener.wait_for(listener.sources)
        listener.command("stop", when="step")
        with pytest.raises(eh.RunStopped):
            eventually(lambda: env.step(0)[2])
        env.close()
    assert [episode.outcome for episode in listener.episodes()] == ["stopped"]


# --- vector environments -------------------------------------------------------------


def vector(mode: Any, *lengths: int) -> Any:
    """Environments that end after so many steps."""
    makes = [lambda steps=steps: Countdown(steps) for steps in lengths]
    return SyncVectorEnv(makes, autoreset_mode=mode)


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_each_environment_of_a_vector_has_its_own_open_episode(
    listener: Listener, mode: str
) -> None:
    with eh.open_run("gym"):
        # In 12 steps: of 2 (and a reset), of 5 (and a reset), of 100.
        envs = EpisightVectorWrapper(vector(AutoresetMode[mode], 2, 5, 100))
        envs.reset(seed=3)
        for _ in range(12):
            envs.step(envs.action_space.sample())
        envs.close()
    found = listener.episodes()
    by_env: Dict[int, List[Any]] = {0: [], 1: [], 2: []}
    for episode in found:
        assert episode.steps == episode.results["return"]
        by_env[episode.attributes["env"]].append((episode.outcome, episode.steps))
    full = ("terminated", 2)
    if mode == "NEXT_STEP":
        assert by_env[0] == [full] * 4
        assert by_env[1] == [("terminated", 5)] * 2
    else:
        assert by_env[0] == [full] * 6
        assert by_env[1] == [("terminated", 5)] * 2 + [("closed", 2)]
    assert by_env[2] == [("closed", 12)]
    assert sorted(e.seed for e in found if e.seed is not None) == [3, 4, 5]


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_a_vectors_outcomes_are_each_environments_own(
    listener: Listener, mode: str
) -> None:
    with eh.open_run("gym"):
        makes = [
            lambda: Countdown(2, {"is_success": True}),
            lambda: Countdown(2, {"is_success": False}),
            lambda: Countdown(2),
        ]
        envs = EpisightVectorWrapper(
            SyncVectorEnv(makes, autoreset_mode=AutoresetMode[mode])
        )
        envs.reset()
        for _ in range(2):
            envs.step(envs.action_space.sample())
        envs.close()
    found = {e.attributes["env"]: e.outcome for e in listener.episodes()}
    assert found == {0: "success", 1: "failure", 2: "terminated"}


def test_where_nothing_resets_by_itself_a_mask_says_who_begins_anew(
    listener: Listener,
) -> None:
    with eh.open_run("gym"):
        envs = EpisightVectorWrapper(vector(AutoresetMode.DISABLED, 2, 9))
        envs.reset()
        for _ in range(2):
            envs.step(envs.action_space.sample())
        envs.reset(options={"reset_mask": np.array([True, False])})
        envs.step(envs.action_space.sample())
        envs.close()
    assert sorted(outcomes(listener)) == [
        ("closed", 1, 1.0),
        ("closed", 3, 3.0),
        ("terminated", 2, 2.0),
    ]


def test_a_vector_gives_the_same_with_and_without_the_wrapper() -> None:
    def seen(envs: Any) -> List[Any]:
        envs.action_space.seed(5)
        first = envs.reset(seed=5)
        return [first] + [envs.step(envs.action_space.sample()) for _ in range(50)]

    with eh.open_run("gym"):
        wrapped = EpisightVectorWrapper(gymnasium.make_vec("CartPole-v1", num_envs=3))
        assert same(seen(wrapped), seen(gymnasium.make_vec("CartPole-v1", num_envs=3)))


WORKERS = """
    import sys
    import gymnasium, experiment_hooks as eh
    from experiment_hooks.integrations.gymnasium import EpisightWrapper

    def make():
        return EpisightWrapper(gymnasium.make("CartPole-v1"))

    if __name__ == "__main__":
        with eh.open_run("workers", success={"truncated"}):
            envs = gymnasium.vector.AsyncVectorEnv([make] * 3, context=sys.argv[1])
            envs.action_space.seed(1)
            envs.reset(seed=1)
            for _ in range(60):
                envs.step(envs.action_space.sample())
            envs.close()
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_workers_in_processes_of_their_own_join_the_parents_run(
    listener: Listener, run_python: Pythons, method: str
) -> None:
    run_python(WORKERS, method, env={"EPISIGHT_ENDPOINT": listener.endpoint})
    opened = listener.records(wire.SourceOpened)
    assert sorted(source.role for source in opened) == ["child"] * 3 + ["owner"]
    assert len({source.run for source in opened}) == 1
    closed = listener.records(wire.SourceClosed)
    assert [source.ending for source in closed] == ["completed"] * 4

    # An end costs the next step, which is the reset; one in the last step does not.
    steps = sum(steps for _, steps, _ in outcomes(listener))
    resets = sum(how == "terminated" for how, _, _ in outcomes(listener))
    assert 180 - resets <= steps <= 180 - resets + 3
    # What is a success, the run has said; only a forked worker knows it too.
    told = False if method == "fork" else None
    assert {episode.success for episode in listener.episodes()} == {told}


# --- Stable-Baselines3 ---------------------------------------------------------------

STABLE_BASELINES = """
    import json, sys
    import experiment_hooks as eh
    from experiment_hooks.integrations.gymnasium import EpisightWrapper
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    if __name__ == "__main__":
        method = json.loads(sys.argv[1])
        with eh.open_run("sb3"):
            envs = make_vec_env(
                "CartPole-v1",
                2,
                wrapper_class=EpisightWrapper,
                vec_env_cls=SubprocVecEnv if method else DummyVecEnv,
                vec_env_kwargs={"start_method": method} if method else {},
            )
            model = PPO("MlpPolicy", envs, n_steps=64, device="cpu").learn(256)
            envs.close()
        print(json.dumps([[one["r"], one["l"]] for one in model.ep_info_buffer]))
"""


@pytest.mark.parametrize("method", [None, *START_METHODS])
def test_stable_baselines_trains_on_wrapped_environments(
    listener: Listener, run_python: Pythons, method: Any
) -> None:
    pytest.importorskip(
        "stable_baselines3",
        reason="Stable-Baselines3 is tested in CI alone: it brings PyTorch",
    )
    env = {"EPISIGHT_ENDPOINT": listener.endpoint}
    said = run_python(STABLE_BASELINES, json.dumps(method), env=env)
    assert sum(steps for _, steps, _ in outcomes(listener)) == 256
    # Its Monitor, which lies inside our wrapper, counts the same; of full episodes.
    full = [one for one in listener.episodes() if one.outcome != "closed"]
    told = [[one.results["return"], one.results["length"]] for one in full]
    assert sorted(told) == sorted(json.loads(said.output.splitlines()[-1]))
    workers = ["child"] * (2 if method else 0)
    sources = listener.records(wire.SourceOpened)
    assert sorted(source.role for source in sources) == [*workers, "owner"]
    assert len({source.run for source in sources}) == 1
    closed = listener.records(wire.SourceClosed)
    assert {source.ending for source in closed} == {"completed"}
