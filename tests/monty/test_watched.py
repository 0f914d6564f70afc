"""A real Monty that is watched has its own results, and they are told."""

import signal
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from tests.monty.running import Monty, Run, named, rows_equal
from tests.monty.watching import assert_told, ended, give_stop, looking, steps, the_run
from tests.otlp_sink import OtlpSink, ReceivedSpan
from tests.support import Exporter, eventually

HOOK = "+experiment.config.step_hook._target_=tests.monty.plugged"
STEP_HOOK = "experiment_hooks.integrations.monty.StepHook"
Exporters = Callable[..., Exporter]
Watched = Tuple[Run, Dict[str, Any]]


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as traces:
        yield traces


@pytest.fixture(scope="module")
def exporter(
    tmp_path_factory: pytest.TempPathFactory, sink: OtlpSink
) -> Iterator[Exporter]:
    """One for all tests of this file."""
    directory = tmp_path_factory.mktemp("exporter")
    started = Exporter(directory, "verdict.lost_seconds=3", env=sink.environ).start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def watched(once_for_all: Monty, exporter: Exporter) -> Watched:
    """``quick`` with one override, while somebody looks, and with what a user may have:
    a step hook that is a dataclass, Monty's telemetry."""
    counted = once_for_all.directory / "counted"
    with looking(exporter, "quick") as onlooker:
        run = once_for_all(
            "quick",
            "+episight=monty",
            "episight.objects=1",
            "+telemetry=info",
            f"{HOOK}.Counting",
            f"+experiment.config.step_hook.path={counted}",
            env=exporter.env,
        )
        told = ended(exporter, "quick")
    run.onlooker = onlooker  # type: ignore[attr-defined]
    run.counted = counted  # type: ignore[attr-defined]
    # Gauges of processes that ended go after a minute.
    hypotheses = exporter.value("experiment_monty_hypotheses", run=told["run"])
    run.hypotheses = hypotheses  # type: ignore[attr-defined]
    return run, told


def test_its_results_are_those_of_one_that_is_not(
    watched: Watched, plain_quick: Run
) -> None:
    for table in ("quick/train_stats.csv", "quick/eval_stats.csv"):
        assert rows_equal(watched[0].rows(table), plain_quick.rows(table))


def test_what_it_saves_loads_without_us(watched: Watched, once_for_all: Monty) -> None:
    folder = watched[0].results / "quick" / "2"
    script = """
import sys, torch
sys.modules["experiment_hooks"] = None  # as if it were not there
for name in ("model.pt", "config.pt", "exp_state_dict.pt"):
    print(name, type(torch.load(f"{sys.argv[1]}/{name}", weights_only=False)))
"""
    said = once_for_all.python_says(script, str(folder))
    assert "model.pt <class 'dict'>" in said


def test_its_episodes_and_steps_are_those_of_its_files(
    watched: Watched, exporter: Exporter
) -> None:
    run, told = watched
    assert told["state"] == "completed"
    assert_told(exporter, told, "train", run.rows("quick/train_stats.csv"))
    assert_told(exporter, told, "eval", run.rows("quick/eval_stats.csv"))
    epochs = [(one["epoch"], one["index"]) for one in exporter.episodes(told["run"])]
    assert epochs[:6] == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    assert epochs[6:] == [(0, 0), (1, 1), (2, 2)]


def test_it_says_what_it_is_and_what_to_expect(
    watched: Watched, exporter: Exporter
) -> None:
    _, told = watched
    monty = told["facts"]["monty"]
    assert monty["version"]
    assert monty["experiment"] == "MontyObjectRecognitionExperiment"
    assert monty["learning_modules"] == {"learning_module_0": "EvidenceGraphLM"}
    assert monty["match_criterion"] == "AnyLMsMatch"
    assert (monty["do_train"], monty["do_eval"], monty["seed"]) == (True, True, 42)
    assert monty["limits"]["max_total_steps"] == 60
    name, run = "experiment_run_expected_episodes", told["run"]
    assert exporter.value(name, run=run, mode="train") == 6
    assert exporter.value(name, run=run, mode="eval") == 3


def test_its_metrics_are_what_montys_people_ask_for(
    watched: Watched, exporter: Exporter
) -> None:
    run, told = watched
    of = {"run": told["run"]}
    rows = run.rows("quick/eval_stats.csv")
    right = sum(row["primary_performance"].startswith("correct") for row in rows)
    eval_ = {**of, "mode": "eval"}
    mean = "experiment_episode_result_recent_mean"
    assert exporter.value(mean, result="accuracy", **eval_) == right / len(rows)
    assert exporter.value("experiment_episode_successes_total", **eval_) == right
    name = "experiment_monty_lm_episodes_total"
    assert exporter.value(name, lm="LM_0", performance="correct", **eval_) == right
    by_object = exporter.samples("experiment_monty_object_episodes_total", **of)
    assert {one.labels["object"] for one in by_object} == {"capsule3DSolid", "other"}
    for name in ("model_seconds_total", "environment_seconds_total"):
        assert exporter.value(f"experiment_monty_{name}", **eval_) > 0
    assert run.hypotheses > 0  # type: ignore[attr-defined]
    phase = "experiment_phase_seconds_total"
    assert exporter.value(phase, phase="exploratory", mode="train", **of) > 0


def test_each_episode_is_a_trace(
    watched: Watched, exporter: Exporter, sink: OtlpSink
) -> None:
    _, told = watched
    episodes = exporter.episodes(told["run"])
    wanted = {one["trace_id"] for one in episodes}

    def there(_: Any) -> bool:
        return {one.trace_id for one in sink.named("episode")} >= wanted

    sink.wait_for(there, 30)
    first = episodes[0]["trace_id"]
    spans = [one for one in sink.spans if one.trace_id == first]
    (root,) = [one for one in spans if one.name == "episode"]
    assert root.attributes["episode.target"] == "capsule3DSolid"
    assert "exploratory" in {one.name for one in spans}
    events = {name for name, _, _ in root.events}
    assert "terminal state" in events


def test_who_looks_sees_evidence_and_images(watched: Watched) -> None:
    heard = watched[0].onlooker.heard  # type: ignore[attr-defined]
    assert "LM_0" in heard
    assert "new_object0" in heard
    assert 'alt=\\"patch\\"' in heard
    assert 'alt=\\"view_finder depth\\"' in heard
    assert "running train epoch" in heard  # a line of Monty's log


def test_the_hook_that_was_there_has_seen_each_step_and_was_closed(
    watched: Watched,
) -> None:
    run, told = watched
    counted: Path = run.counted  # type: ignore[attr-defined]
    assert counted.read_text() == f"{steps(told)} steps\n"


# --- other ways in --------------------------------------------------------------------

# One epoch each: two episodes of training, one of evaluation.
BRIEF = ("experiment.config.n_train_epochs=1", "experiment.config.n_eval_epochs=1")


def test_without_an_exporter_it_runs_as_ever(monty: Monty, plain_quick: Run) -> None:
    nobody = "episight.endpoint=tcp://127.0.0.1:9"
    run = monty("quick", "+episight=monty", nobody, *BRIEF)
    table = "quick/train_stats.csv"
    assert rows_equal(run.rows(table), plain_quick.rows(table)[:2])


def test_each_job_of_a_multirun_is_a_run(monty: Monty, exporter: Exporter) -> None:
    monty(
        "quick",
        "+episight=monty",
        "experiment.config.logging.run_name=first,second",
        *BRIEF,
        f"{HOOK}.Counting",
        f"+experiment.config.step_hook.path={monty.directory / 'counted'}",
        "hydra.sweep.dir=swept",
        "-m",
        env=exporter.env,
    )
    for name in ("first", "second"):
        told = ended(exporter, name)
        assert told["state"] == "completed"
        assert told["modes"]["train"]["episodes"] == 2
        assert told["modes"]["eval"]["episodes"] == 1
        assert told["facts"]["hydra"]["mode"] == "MULTIRUN"
    counted = (monty.directory / "counted").read_text().splitlines()
    assert len(counted) == 2


def test_the_step_hook_alone_is_enough_and_a_handler_may_be_beside_it(
    monty: Monty, exporter: Exporter
) -> None:
    csv = "tbp.monty.frameworks.loggers.monty_handlers.BasicCSVStatsHandler"
    ours = "experiment_hooks.integrations.monty.EpisodeHandler"  # pickled each epoch
    run = monty(
        "quick",
        named("alone"),
        f"+experiment.config.step_hook._target_={STEP_HOOK}",
        "experiment.config.logging.monty_data_logger.handlers="
        f"[{{_target_:{csv}}},{{_target_:{ours}}}]",
        *BRIEF,
        env=exporter.env,
    )
    told = ended(exporter, "alone")
    assert told["state"] == "completed"
    assert told["facts"]["monty"]["model"] == "MontyForGraphMatching"
    assert_told(exporter, told, "train", run.rows("alone/train_stats.csv"))
    assert_told(exporter, told, "eval", run.rows("alone/eval_stats.csv"))


def test_a_profiled_experiment_is_watched_too_and_telemetry_heard(
    monty: Monty, exporter: Exporter, sink: OtlpSink
) -> None:
    run = monty(
        "quick",
        named("profiled"),
        "+episight=monty",
        "experiment._target_=tests.monty.plugged.Profiled",
        "termination=any1_min_e0_t0_exp3_max_e1_t1_tot5",
        "experiment.config.n_train_epochs=1",
        "experiment.config.do_eval=false",
        env=exporter.env,
    )
    told = ended(exporter, "profiled")
    assert told["modes"]["train"]["episodes"] == 2
    profiles = list((run.results / "profiled" / "profile").glob("*episode*.csv"))
    assert len(profiles) == 2
    traces = {one["trace_id"] for one in exporter.episodes(told["run"])}

    def roots() -> List[ReceivedSpan]:
        return [one for one in sink.named("episode") if one.trace_id in traces]

    sink.wait_for(lambda _: len(roots()) == 2, 30)
    for root in roots():
        assert "TerminalCondition" in {name for name, _, _ in root.events}


# --- how it ends ----------------------------------------------------------------------


def test_a_stop_ends_it_well(monty: Monty, exporter: Exporter) -> None:
    name = "stopped"
    run = monty.start("quick", named(name), "+episight=monty", env=exporter.env)
    eventually(lambda: steps(the_run(exporter, name)) > 30, 60.0, "its steps")
    give_stop(exporter, the_run(exporter, name)["run"], "step")
    run.wait()
    told = ended(exporter, name)
    assert (told["state"], told["reason"]) == ("stopped", "user")
    episodes = exporter.episodes(told["run"])
    whole = [one for one in episodes if one["outcome"] != "stopped"]
    assert len(run.rows(f"{name}/train_stats.csv")) == len(whole) > 0
    # It may have come between two episodes: then none was left in the middle.
    assert len(episodes) - len(whole) <= 1
    assert "Done running" in run.output
    assert "Traceback" not in run.output


def failing(monty: Monty, exporter: Exporter, name: str, **how: Any) -> Run:
    """One that something happens to in the midst of its second episode."""
    arguments = [f"+experiment.config.step_hook.{key}={how[key]}" for key in how]
    return monty(
        "quick",
        named(name),
        "+episight=monty",
        f"{HOOK}.Failing",
        *arguments,
        env=exporter.env,
        status=None,
    )


def test_an_error_is_the_runs_with_its_traceback(
    monty: Monty, exporter: Exporter
) -> None:
    # Until 0.46 a StopIteration ended the episode, and no more.
    run = failing(monty, exporter, "fails", at=30, raises="StopIteration")
    assert run.child.status == 1
    told = ended(exporter, "fails")
    assert (told["state"], told["error"]["type"]) == ("failed", "StopIteration")
    assert "plugged.py" in told["error"]["traceback"]
    assert exporter.episodes(told["run"])[-1]["outcome"] == "error"


@pytest.mark.parametrize(
    ("number", "state"),
    [(signal.SIGINT, "stopped"), (signal.SIGKILL, "lost")],
)
def test_a_signal_ends_it_as_it_ends_any_process(
    monty: Monty, exporter: Exporter, number: signal.Signals, state: str
) -> None:
    name = f"ends-by-{number.name}"
    failing(monty, exporter, name, at=30, sends=int(number))
    told = ended(exporter, name)
    assert told["state"] == state
    episodes = exporter.episodes(told["run"])
    assert episodes[0]["outcome"] == "no_match"


def test_what_fails_before_the_first_step_is_a_failed_run(
    monty: Monty, exporter: Exporter
) -> None:
    monty(
        "quick",
        named("unset"),
        "+episight=monty",
        "experiment.config.model_name_or_path=/no/such/model",
        env=exporter.env,
        status=1,
    )
    told = ended(exporter, "unset")
    assert told["state"] == "failed"
    assert told["error"]["type"] == "FileNotFoundError"
    assert told["modes"] == {}
