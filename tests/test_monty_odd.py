"""Monty's step hook where something is odd: models, names, copies, processes, ends."""

import copy
import logging
import logging.config
import os
import pickle
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Dict, List

import pytest

import experiment_hooks as eh
from experiment_hooks import wire
from experiment_hooks.integrations.monty import (
    StepHook,
    TelemetryHandler,
    facts,
    options,
    outcome,
)
from experiment_hooks.testing import Listener
from tests.monty_stand_in import Experiment, Lm, Model
from tests.support import Pythons, eventually


def two_lms() -> Model:
    return Model([Lm({"mug": 2.0, "bowl": 1.5}), Lm({"bowl": 1.0, "mug": 0.5})])


def play(experiment: Experiment) -> Experiment:
    with experiment:
        experiment.run()
    return experiment


def ask_stop(listener: Listener, when: str) -> None:
    """Have the run that is open stopped, and return when it knows."""
    run = eh.current_run()
    assert run is not None
    eventually(lambda: run.url)  # before, nobody could tell it anything
    listener.command("stop", when=when)
    eventually(lambda: run._recorder.stop is not None)


# --- models ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        {"_hypotheses": {"mug": 3}},
        {"evidence": {"mug": 1.0}},
        {"evidence_for_each_graph": lambda: None},
        {"evidence_for_each_graph": lambda: (["mug"], [float("nan")])},
    ],
    ids=["spaces", "numbers", "nothing", "nan"],
)
def test_a_learning_module_of_ones_own_may_mean_something_else(
    listener: Listener, own: Dict[str, Any]
) -> None:
    model = two_lms()
    vars(model.learning_modules[1]).update(own)
    play(Experiment(model, StepHook()))
    assert [one.steps for one in listener.episodes()] == [5] * 4
    assert listener.episodes()[0].results["evidence_margin"] == 2.5


def test_learning_modules_may_come_and_go(listener: Listener) -> None:
    class Growing(Model):
        def step(self, *_: Any) -> List[str]:
            taken = super().step()
            self.learning_modules.append(Lm({"mug": 1.0}))
            return taken

    play(Experiment(Growing([]), StepHook()))
    assert len(listener.episodes()) == 4


def test_a_copy_of_the_model_is_a_model_of_its_own(listener: Listener) -> None:
    """Also one by way of pickle, and nothing of ours is in that."""
    copies = []

    class Copying(Experiment):
        def post_episode(self, steps: int) -> None:
            super().post_episode(steps)
            pickled = pickle.dumps(self.model)
            assert b"experiment_hooks" not in pickled
            for one in (copy.deepcopy(self.model), pickle.loads(pickled)):
                one.step()
                copies.append(one.episode_steps - self.model.episode_steps)

    play(Copying(two_lms(), StepHook()))
    assert copies == [1] * 8
    assert [one.steps for one in listener.episodes()] == [5] * 4


def test_who_stands_in_the_place_of_a_method_already_has_it_again(
    listener: Listener,
) -> None:
    model, calls = two_lms(), []
    original = model.step

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return original(*arguments)

    model.step = counted  # type: ignore[method-assign]
    play(Experiment(model, StepHook()))
    assert model.step is counted
    assert len(calls) == 20


# --- names and words ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x" * 250, "x" * 200),
        ("two\nlines", "two lines"),
        (" ", "monty"),
        ("", "monty"),
        ("a run/of mine", "a run/of mine"),
    ],
)
def test_a_run_name_of_any_kind_is_a_name(
    listener: Listener, name: str, shown: str
) -> None:
    experiment = Experiment(two_lms(), StepHook())
    experiment.config["logging"]["run_name"] = name
    play(experiment)
    (run,) = listener.records(wire.RunOpened)
    assert run.experiment == shown


def test_options_may_come_from_the_environment_as_texts() -> None:
    found, problems = options.read(
        {"disabled": "true", "images": "False", "top_k": "3"}
    )
    assert (found.disabled, found.images, found.top_k) == (True, False, 3)
    assert problems == []


def test_an_option_without_bounds_is_said_and_left_out() -> None:
    found, (problem,) = options.read({"top_k": float("inf"), "name": " \n"})
    assert found == options.Options()
    assert "episight.top_k=inf" in problem


def test_the_targets_among_distractors_are_the_episodes_to_expect() -> None:
    names = {"targets_list": ["mug", "bowl"], "num_distractors": 3}
    config = {
        "do_eval": True,
        "n_eval_epochs": 2,
        "eval_env_interface_args": {"object_names": names},
    }
    assert facts.expected_episodes(config) == {"eval": 4}


# --- logging --------------------------------------------------------------------------


def test_a_log_handler_that_raises_does_not_reach_the_experiment(
    listener: Listener,
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left on device")

    class Odd(Model):
        @property
        def learning_modules(self) -> Any:  # type: ignore[override]
            raise ValueError("there are none")

        @learning_modules.setter
        def learning_modules(self, value: Any) -> None:
            pass

        def reset(self) -> None:
            self.step_type, self.episode_steps = "matching_step", 0

    ours, broken = logging.getLogger("experiment_hooks"), Broken()
    ours.addHandler(broken)
    try:
        hook = StepHook(no_such_option="and it is said")
        assert hook("ctx", Odd([]), [], 0, {}, ["go"]) == ["go"]
        hook.close()
    finally:
        ours.removeHandler(broken)


def test_what_goes_unwatched_leaves_no_episode_open(listener: Listener) -> None:
    class Breaking(Model):
        @property
        def step_type(self) -> str:
            if self.episode_steps > 2:
                raise ValueError("no such thing")
            return "matching_step"

        @step_type.setter
        def step_type(self, value: str) -> None:
            pass

    hook, model = StepHook(name="breaking"), Breaking([Lm({"mug": 1.0})])
    model.episode_steps = 1
    hook("ctx", model, [], 0, {}, ["go"])
    model.episode_steps = 3
    hook("ctx", model, [], 1, {}, ["go"])
    run = eh.current_run()
    assert run is not None
    assert not run._recorder.open
    hook.close()


def test_an_event_may_have_fields_of_any_name(listener: Listener) -> None:
    log = logging.getLogger("telemetry.tbp.monty.odd")
    log.propagate = False  # as Monty's are

    class Saying(Experiment):
        def run_step(self, step: int) -> None:
            super().run_step(step)
            log.info(SimpleNamespace(kind="Own", name="mug", self=1, other=2))

    play(Saying(two_lms(), StepHook()))
    assert [one.steps for one in listener.episodes()] == [5] * 4
    events = [one for one in listener.episodes()[0].events if one.name == "Own"]
    assert events[0].attributes == {"its_name": "mug", "itself": 1, "other": 2}


def test_what_is_no_event_of_montys_is_left_out() -> None:
    class Own:
        __slots__ = ("kind",)

        def __init__(self) -> None:
            self.kind = "Own"

    log = logging.getLogger("telemetry.own")
    log.setLevel(logging.INFO)
    heard: List[Any] = []
    log.addHandler(TelemetryHandler(lambda kind, fields: heard.append(kind)))
    log.info(Own())
    log.info("a line")
    assert heard == []


def test_the_telemetry_handler_may_be_named_in_a_configuration(
    listener: Listener,
) -> None:
    handler = {"class": "experiment_hooks.integrations.monty.TelemetryHandler"}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"live": handler},
            "loggers": {"telemetry.named": {"level": "INFO", "handlers": ["live"]}},
        }
    )
    log = logging.getLogger("telemetry.named")
    event = SimpleNamespace(kind="NewGraphAdded", graph_id="new_object0")
    log.info(event)  # there is no run: nobody hears it
    with eh.open_run("told"):
        log.info(event)
    (line,) = listener.records(wire.LogLine)
    assert (line.message, line.fields) == ("NewGraphAdded", {"graph_id": "new_object0"})


# --- ends -----------------------------------------------------------------------------


def test_a_second_try_is_not_blamed_for_the_first(listener: Listener) -> None:
    try:
        raise RuntimeError("the arm is stuck")
    except RuntimeError:
        play(Experiment(two_lms(), StepHook()))
    (end,) = listener.records(wire.RunClosed)
    assert (end.ending, end.error) == ("completed", None)


def test_an_experiment_may_run_again(listener: Listener) -> None:
    experiment = Experiment(two_lms(), StepHook())
    play(experiment)
    play(experiment)
    assert len(listener.episodes()) == 8
    ends = [one.ending for one in listener.records(wire.RunClosed)]
    assert ends == ["completed"] * 2


def test_an_experiment_that_was_stopped_may_run_again(listener: Listener) -> None:
    class Stopped(Experiment):
        def run_step(self, step: int) -> None:
            super().run_step(step)
            if not self.rows and step == 2:
                ask_stop(listener, "step")

    experiment = Stopped(two_lms(), StepHook())
    before = set(vars(experiment)) | {"broadcaster"}
    play(experiment)
    assert experiment.rows == []
    assert set(vars(experiment)) == before
    experiment.rows.append("once more")
    play(experiment)
    assert experiment.rows == ["once more", "mug", "bowl", "mug", "bowl"]
    ends = [one.ending for one in listener.records(wire.RunClosed)]
    assert ends == ["stopped", "completed"]


def test_a_stop_at_the_last_moment_leaves_the_episode_its_outcome(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is in Monty's files by then."""
    rows = {"LM_0": {"primary_performance": "correct"}}
    monkeypatch.setattr(outcome, "stats_of", lambda *_: rows)

    class Stopped(Experiment):
        def post_episode(self, steps: int) -> None:
            ask_stop(listener, "now")
            super().post_episode(steps)

    experiment = play(Stopped(two_lms(), StepHook()))
    assert experiment.rows == ["mug"]
    assert [one.outcome for one in listener.episodes()] == ["correct"]
    (end,) = listener.records(wire.RunClosed)
    assert end.ending == "stopped"


def test_the_earlier_monitors_calls_know_nothing_of_a_stop(listener: Listener) -> None:
    class Calling(Experiment):
        def run_step(self, step: int) -> None:
            super().run_step(step)
            if step == 1:
                ask_stop(listener, "now")
                self.broadcaster.publish_metric("loss", 0.5)
                self.broadcaster.publish_data("arm", {"angle": 1})
                self.broadcaster.publish_state({"angle": 1})
                self.broadcaster.publish_log("info", "still here")

    experiment = play(Calling(two_lms(), StepHook()))
    assert (experiment.rows, experiment.saved) == ([], 1)
    assert listener.total("loss") == 0.5


def test_disabled_by_the_environment_is_next_to_nothing(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPISIGHT_DISABLED", "1")

    class Calling(Experiment):
        def post_episode(self, steps: int) -> None:
            assert set(vars(self.model)) == before
            self.broadcaster.publish_metric("loss", 0.5)
            super().post_episode(steps)

    experiment = Calling(two_lms(), StepHook())
    before = set(vars(experiment.model))
    play(experiment)
    assert len(experiment.rows) == 4
    assert listener.heard() == []


# --- processes ------------------------------------------------------------------------


def test_in_a_process_of_multiprocessing_the_jobs_run_stays_the_jobs(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a launcher runs whole jobs in worker processes."""
    monkeypatch.setattr("multiprocessing.parent_process", object)
    run = eh.open_run("job").take_guests()
    play(Experiment(two_lms(), StepHook(told=True)))
    StepHook(told=True)  # run_parallel makes one more than it uses
    assert not run.closed
    run.end("completed")
    assert len(listener.episodes()) == 4
    assert len(listener.records(wire.RunClosed)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_a_source_of_its_own_that_ends_with_its_experiment(
    run_python: Pythons, listener: Listener
) -> None:
    """Old Montys fork, and Python's pool kills its processes when all is done."""
    run_python(
        """
        import multiprocessing, os, signal, warnings
        import experiment_hooks as eh
        from experiment_hooks.integrations.monty import StepHook
        from tests.monty_stand_in import Experiment, Lm, Model

        warnings.simplefilter("ignore", DeprecationWarning)

        def work():
            for _ in range(2):
                model = Model([Lm({"mug": 1.0})])
                with Experiment(model, StepHook(told=True)) as experiment:
                    experiment.run()
            os.kill(os.getpid(), signal.SIGKILL)

        with eh.open_run("job").take_guests():
            child = multiprocessing.get_context("fork").Process(target=work)
            child.start()
            child.join()
        """,
        env={"EPISIGHT_ENDPOINT": listener.endpoint},
    )
    (run,) = {one.run for one in listener.records(wire.RunOpened)}
    assert len(listener.episodes()) == 8
    ended = listener.records(wire.SourceClosed)
    assert [one.run for one in ended] == [run] * 3


def test_each_experiment_of_the_handler_alone_is_a_run_of_its_own(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler_of_montys = ModuleType("monty_handlers")
    handler_of_montys.MontyHandler = object  # type: ignore[attr-defined]
    package = "tbp.monty.frameworks.loggers.monty_handlers"
    monkeypatch.setitem(sys.modules, package, handler_of_montys)
    for parent in ("tbp", "tbp.monty", "tbp.monty.frameworks"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(
        sys.modules, "tbp.monty.frameworks.loggers", ModuleType("loggers")
    )
    name = "experiment_hooks.integrations.monty.handler"
    monkeypatch.delitem(sys.modules, name, raising=False)
    from experiment_hooks.integrations.monty.handler import EpisodeHandler

    monkeypatch.delitem(sys.modules, name)
    stats = {"LM_0": {"primary_performance": "correct"}}
    for experiment in ("one", "two"):
        handler = EpisodeHandler()
        data = {"BASIC": {"train_stats": {0: stats}}}
        handler.report_episode(data, f"/results/{experiment}", 0, "train")
        assert pickle.loads(pickle.dumps(vars(handler))) == {}
        handler.close()
        handler.close()
    told = [one.experiment for one in listener.records(wire.RunOpened)]
    assert told == ["one", "two"]
    assert len(listener.records(wire.RunClosed)) == 2
