"""Monty's step hook, handler and ``build``, with a Monty in small.

For what depends on nothing of Monty's: the order of calls, ends, stops, and all that
may go wrong. What real Montys do is in ``tests/monty``.
"""

import logging
import pickle
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest

import experiment_hooks as eh
from experiment_hooks import wire
from experiment_hooks.integrations.monty import (
    StepHook,
    TelemetryHandler,
    belief,
    facts,
    former,
    older,
    options,
    outcome,
)
from experiment_hooks.testing import Listener
from tests.monty_stand_in import Experiment, Lm, Model, Older
from tests.support import Pythons, eventually


def two_lms() -> Model:
    return Model([Lm({"mug": 2.0, "bowl": 1.5}), Lm({"bowl": 1.0, "mug": 0.5})])


def play(hook: Any = None, **attributes: Any) -> Experiment:
    """Run a small experiment to its end, as Monty's ``run.py`` does."""
    experiment = Experiment(two_lms(), hook or StepHook())
    for name, value in attributes.items():
        setattr(experiment, name, value)
    with experiment:
        experiment.run()
    return experiment


def test_the_hook_alone_tells_the_whole_experiment(listener: Listener) -> None:
    experiment = play()
    assert experiment.taken == [f"action {n}" for n in (1, 2, 3, 4, 5)] * 4
    (run,) = listener.records(wire.RunOpened)
    assert (run.experiment, run.tags) == ("small", {"kind": "monty"})
    assert run.expected_episodes == {"train": 4}
    assert run.facts["monty"]["experiment"] == "Experiment"
    told = [(e.mode, e.epoch, e.index, e.target, e.seed) for e in listener.episodes()]
    assert told == [
        ("train", 0, 0, "mug", 100),
        ("train", 0, 1, "bowl", 101),
        ("train", 1, 2, "mug", 102),
        ("train", 1, 3, "bowl", 103),
    ]
    assert {episode.steps for episode in listener.episodes()} == {5}
    (end,) = listener.records(wire.RunClosed)
    assert end.ending == "completed"


def test_an_episode_has_its_phases_events_and_beliefs(listener: Listener) -> None:
    play()
    episode = listener.episodes()[0]
    assert [(p.name, p.steps) for p in episode.phases] == [
        ("matching", 2),
        ("exploratory", 3),
    ]
    (event,) = episode.events
    assert event.name == "terminal state"
    assert event.attributes == {"learning_module": "LM_0", "state": "match"}
    assert episode.scores["LM_0/mug"] == 10.0
    assert episode.results["evidence_margin"] == 2.5
    assert episode.results["disagreement"] == 0.5


def test_another_hook_comes_first_and_its_actions_are_passed_on(
    listener: Listener,
) -> None:
    calls: List[Any] = []

    class Teleop:
        def __call__(self, *arguments: Any) -> List[str]:
            calls.append(arguments)
            return ["its own"]

        def close(self) -> None:
            calls.append("closed")

    experiment = play(StepHook(first=Teleop()))
    assert experiment.taken == ["its own"] * 20
    assert calls[0][2:4] == ([], 0)
    assert calls[-1] == "closed"
    assert len(listener.episodes()) == 4


def test_a_first_hook_that_cannot_be_closed_ends_the_run_all_the_same(
    listener: Listener,
) -> None:
    class Teleop:
        def __call__(self, *arguments: Any) -> Any:
            return arguments[-1]

        def close(self) -> None:
            raise OSError("its window is gone")

    with pytest.raises(OSError, match="its window is gone"):
        play(StepHook(first=Teleop()))
    (end,) = listener.records(wire.RunClosed)
    assert end.ending == "completed"


def test_making_and_closing_a_hook_does_nothing(listener: Listener) -> None:
    StepHook().close()
    hook = pickle.loads(pickle.dumps(StepHook(top_k=3)))
    hook.close()
    assert listener.heard() == []
    assert eh.current_run() is None


def test_an_error_is_the_episodes_and_the_runs_and_goes_on(listener: Listener) -> None:
    with pytest.raises(RuntimeError, match="the arm is stuck"):
        play(fails_at=2)
    (episode,) = listener.episodes()
    assert (episode.outcome, episode.steps) == ("error", 2)
    (end,) = listener.records(wire.RunClosed)
    assert end.ending == "failed"
    assert end.error is not None
    assert end.error.message == "the arm is stuck"


def test_ctrl_c_is_a_stopped_run(listener: Listener) -> None:
    class Interrupted(Experiment):
        def run_step(self, step: int) -> None:
            super().run_step(step)
            if self.episodes == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Interrupted(
        two_lms(), StepHook()
    ) as experiment:
        experiment.run()
    assert [e.outcome for e in listener.episodes()] == ["ended", "stopped"]
    (end,) = listener.records(wire.RunClosed)
    assert (end.ending, end.reason) == ("stopped", "user")


# --- a stop ---------------------------------------------------------------------------


class Calls:
    """A step hook that has its run stopped at its nth call."""

    def __init__(self, listener: Listener, when: str, at: int) -> None:
        self._listener, self._when, self._at = listener, when, at
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        run = eh.current_run()
        if self.calls == self._at and run is not None:
            eventually(lambda: run.url)  # before, nobody could tell it anything
            self._listener.command("stop", when=self._when)
            eventually(lambda: run._recorder.stop is not None)
        return arguments[-1]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("when", ["step", "now"])
def test_a_stop_within_an_episode_leaves_no_row_of_it(
    listener: Listener, when: str
) -> None:
    asked = Calls(listener, when, at=8)  # in the third step of the second episode
    experiment = play(StepHook(first=asked))
    assert experiment.rows == ["mug"]
    assert experiment.model.remembered == ["mug"]
    assert (experiment.saved, asked.calls) == (1, 8)
    outcomes = [episode.outcome for episode in listener.episodes()]
    assert outcomes == ["ended", "stopped"]
    (end,) = listener.records(wire.RunClosed)
    assert (end.ending, end.reason) == ("stopped", "user")


def test_a_stop_after_the_episode_lets_it_end(listener: Listener) -> None:
    asked = Calls(listener, "episode", at=8)
    experiment = play(StepHook(first=asked))
    assert experiment.rows == experiment.model.remembered == ["mug", "bowl"]
    assert (experiment.saved, asked.calls) == (1, 10)
    assert [episode.outcome for episode in listener.episodes()] == ["ended"] * 2
    (end,) = listener.records(wire.RunClosed)
    assert end.ending == "stopped"


def test_where_there_is_no_experiment_a_stop_is_an_exception(
    listener: Listener,
) -> None:
    hook = StepHook(first=Calls(listener, "step", at=2), run_id="alone")
    model = two_lms()
    hook("ctx", model, [], 0, {}, model.step())
    with pytest.raises(eh.RunStopped):
        hook("ctx", model, [], 1, {}, model.step())
    hook.close()


def test_a_cameras_stream_is_stopped_as_by_ctrl_c(listener: Listener) -> None:
    class SaccadeOnImageFromStreamInterface:
        pass

    class Streaming(Experiment):
        def run_epoch(self) -> None:
            try:
                while True:
                    self.model.primary_target = {"object": "mug"}
                    self.run_episode()
            except KeyboardInterrupt:
                self.epochs += 1

    hook = StepHook(first=Calls(listener, "episode", at=8))
    experiment = Streaming(two_lms(), hook)
    experiment.env_interface = SaccadeOnImageFromStreamInterface()
    with experiment:
        experiment.run()
    assert (experiment.epochs, len(experiment.rows)) == (1, 2)


# --- what may go wrong ----------------------------------------------------------------


def test_a_model_of_ones_own_needs_none_of_montys_attributes(
    listener: Listener,
) -> None:
    class Own:
        learning_modules = [object()]
        motor_system = None

        def step(self) -> List[str]:
            return ["go"]

        def update_ltm(self) -> None:
            pass

    hook, model = StepHook(name="own"), Own()
    for _ in range(2):
        assert hook("ctx", model, [], 0, {}, model.step()) == ["go"]
    model.update_ltm()
    hook.close()
    (episode,) = listener.episodes()
    assert (episode.steps, episode.outcome) == (2, "ended")


def test_what_goes_wrong_in_here_is_said_and_the_experiment_goes_on(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Model):
        @property
        def step_type(self) -> str:
            raise ValueError("no such thing")

        @step_type.setter
        def step_type(self, value: str) -> None:
            pass

    hook = StepHook(name="broken")
    model = Broken([Lm({"mug": 1.0})])
    assert hook("ctx", model, [], 0, {}, ["go"]) == ["go"]
    assert hook("ctx", model, [], 1, {}, ["go on"]) == ["go on"]
    hook.close()
    said = [one for one in caplog.messages if "unwatched" in one]
    assert said == ["episight: Monty goes on unwatched"]


def test_disabled_is_nothing_at_all(listener: Listener) -> None:
    experiment = play(StepHook(disabled=True))
    assert len(experiment.taken) == 20
    assert listener.heard() == []


def test_a_wrong_option_is_said_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    found, problems = options.read({"top_k": "many", "imges": True, "images": False})
    assert found == options.Options(images=False)
    assert "episight.top_k='many'" in problems[0]
    assert "there is no option episight.imges; there are: disabled" in problems[1]
    StepHook(image_rate=0)
    assert "give a number above 0" in caplog.text


def test_after_the_end_the_model_is_as_it_was(listener: Listener) -> None:
    experiment = Experiment(two_lms(), StepHook())
    before = set(vars(experiment.model))
    with experiment:
        experiment.run()
    assert set(vars(experiment.model)) == before


# --- older ones -----------------------------------------------------------------------


def build_older(**attributes: Any) -> Older:
    made = older.build(
        made="tests.monty_stand_in.Older",
        watched=StepHook(),
        config={"logging": {"run_name": "older"}},
    )
    assert isinstance(made, Older)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def test_a_monty_without_step_hooks_is_watched_by_its_models_steps(
    listener: Listener,
) -> None:
    experiment = build_older()
    with experiment:
        experiment.run()
    assert (len(experiment.taken), experiment.closed) == (20, 1)
    assert experiment.model.remembered == ["mug", "bowl"] * 2
    told = [(e.target, e.steps, e.scores) for e in listener.episodes()]
    assert told == [(n, 5, {"LM_0/mug": 5.0}) for n in ("mug", "bowl", "mug", "bowl")]
    (end,) = listener.records(wire.RunClosed)
    assert end.ending == "completed"


def test_an_older_montys_error_is_the_runs(listener: Listener) -> None:
    experiment = build_older(fails_at=1)
    with pytest.raises(RuntimeError), experiment:
        experiment.run()
    (end,) = listener.records(wire.RunClosed)
    assert end.ending == "failed"


# --- pieces ---------------------------------------------------------------------------


def test_beliefs_of_all_kinds_of_learning_modules() -> None:
    lm = Lm({"mug": 2.0, "bowl": 1.5, "cup": 0.5})
    assert belief.of(lm).evidence == {}  # before the first step
    lm.steps = 2
    read = belief.of(lm)
    assert (read.most_likely, read.second) == ("mug", "bowl")
    assert (read.highest, read.margin) == (4.0, 1.0)
    assert belief.of(object()) == belief.Belief({}, None, None, None, None, None)


class Evidence(List[float]):
    """What numpy's arrays can do, and is asked of them."""

    def max(self) -> float:
        return max(iter(self))


def test_a_belief_is_read_from_the_hypotheses_where_there_are_any() -> None:
    lm = Lm({"mug": 2.0})
    lm._hypotheses = {  # type: ignore[attr-defined]
        "mug": SimpleNamespace(evidence=Evidence([1.0, 2.0])),
        "cup": SimpleNamespace(evidence=Evidence([3.0])),
        "bowl": SimpleNamespace(evidence=Evidence()),
    }
    read = belief.of(lm)
    assert read.evidence == {"mug": 2.0, "cup": 3.0}
    assert (read.most_likely, read.hypotheses) == ("cup", 3)


def test_of_two_that_are_equal_montys_choice_comes_first() -> None:
    class Torn(Lm):
        @property
        def current_mlh(self) -> Dict[str, Any]:
            return {"graph_id": "bowl"}

    lm = Torn({"mug": 1.0, "bowl": 1.0})
    lm.steps = 1
    assert belief.of(lm).most_likely == "bowl"


def test_the_targets_evidence_is_shown_wherever_it_stands() -> None:
    evidence = {f"object{n}": float(n) for n in range(100)}
    shown = belief.top(evidence, 2, "object7")
    assert shown == {"object7": 7.0, "object98": 98.0, "object99": 99.0}
    assert belief.top({"mug": 1.0}, 0, "mug") == {"mug": 1.0}


@pytest.mark.parametrize(
    ("performances", "said"),
    [
        (["correct", "confused"], "correct"),
        (["no_match", "confused_mlh"], "no_match"),
        (["correct_mlh", "time_out"], "correct_mlh"),
        (["patch_off_object", "a new one"], "patch_off_object"),
        ([None, None], "ended"),
    ],
)
def test_the_episodes_outcome_is_the_best_learning_modules(
    performances: List[Any], said: str
) -> None:
    stats = {
        f"LM_{n}": {"primary_performance": performance, "rotation_error": 10.0 - n}
        for n, performance in enumerate(performances)
    }
    stats["target"] = {"primary_target_object": "mug"}
    found = outcome.outcome_of(stats, {}, None)
    assert found.outcome == said
    assert found.results["rotation_error"] == 9.0
    assert ("accuracy" in found.results) == (performances[0] is not None)


def test_learning_modules_that_believe_different_things() -> None:
    assert belief.disagreement(["mug"]) is None
    assert belief.disagreement(["mug", None]) is None
    assert belief.disagreement(["mug", "mug"]) == 0.0
    assert belief.disagreement(["mug", "bowl", "mug", "cup"]) == 0.5


def test_a_run_of_parallel_processes_has_one_name() -> None:
    def name(run_name: str) -> Any:
        return facts.run_name({"logging": {"run_name": run_name}})

    assert name("eval-parallel_eval_episode_17") == "eval"
    assert name("train-parallel_train_episode_mug_2") == "train"
    assert name("parallel_eval") == "parallel_eval"
    assert name("") is None


def test_the_earlier_monitors_settings_are_understood_or_answered() -> None:
    monty = {
        "enable_liveview": False,
        "zmq_port": 6000,
        "sensor_image_throttle_ms": 200,
        "liveview_port": 8000,
    }
    assert former.options(monty) == {
        "disabled": True,
        "endpoint": "tcp://127.0.0.1:6000",
        "image_rate": 5.0,
    }
    target = "contrib.liveview.MontyExperimentWithLiveView"
    said = former.said({"experiment": {"_target_": target, "config": monty}})
    assert target in said[0]
    assert "+episight=monty" in said[0]
    assert "EPISIGHT_WEB_PORT" in " ".join(said)
    assert former.said({"experiment": {"_target_": "Monty", "config": {}}}) == []


def test_an_experiment_has_the_earlier_monitors_broadcaster(listener: Listener) -> None:
    published = []

    class Calling(Experiment):
        def post_episode(self, steps: int) -> None:
            super().post_episode(steps)
            self.broadcaster.publish_metric("loss", 0.5, epoch=1, step=3)
            self.broadcaster.publish_data(stream_name="arm", data={"angle": 1})
            self.broadcaster.publish_log("warning", "it is hot", celsius=80)
            published.append(self.broadcaster)

    with Calling(two_lms(), StepHook(logs=False)) as experiment:
        experiment.run()
    lines = listener.records(wire.LogLine)
    assert {line.message for line in lines} == {"it is hot"}
    assert listener.total("loss") == 0.5


def test_telemetry_becomes_events_and_each_steps_does_not(listener: Listener) -> None:
    heard: List[Any] = []
    log = logging.getLogger("telemetry.test")
    log.setLevel(logging.INFO)
    log.addHandler(TelemetryHandler(lambda kind, fields: heard.append((kind, fields))))
    log.info(SimpleNamespace(kind="NewGraphAdded", graph_id="new_object0"))
    log.info(SimpleNamespace(kind="GlobalMatchingStep", matching_steps=3))
    log.info("a line of text")
    assert heard == [("NewGraphAdded", {"graph_id": "new_object0"})]


def test_montys_own_log_lines_are_on_the_page_while_it_is_watched(
    listener: Listener,
) -> None:
    log = logging.getLogger("tbp.monty")
    level, handlers = log.level, list(log.handlers)

    class Saying(Experiment):
        def post_episode(self, steps: int) -> None:
            super().post_episode(steps)
            log.warning("an episode is over")

    with Saying(two_lms(), StepHook()) as experiment:
        experiment.run()
    log.warning("nobody hears this")
    lines = [line.message for line in listener.records(wire.LogLine)]
    assert lines == ["an episode is over"] * 4
    assert (log.level, log.handlers) == (level, handlers)


def test_objects_are_told_apart_only_when_asked_and_only_so_many(
    listener: Listener,
) -> None:
    play(StepHook(objects=1, run_id="apart"))
    assert listener.total("monty_object_episodes", object="mug") == 2
    assert listener.total("monty_object_episodes", object="other") == 2


def test_importing_it_imports_neither_monty_nor_hydra(run_python: Pythons) -> None:
    run_python(
        """
        import sys
        import experiment_hooks.integrations.monty
        assert not {"hydra", "tbp", "torch", "numpy"} & set(sys.modules)
        """
    )
