"""run_parallel: a fresh process for each episode, and one run."""

import os
import signal
from pathlib import Path
from typing import Any, Dict, List

import pytest

from tests.monty.running import Monty, named, rows_equal
from tests.monty.watching import assert_told, ended, give_stop, steps, the_run
from tests.support import Exporter, eventually

TABLE = "parallel/eval_stats.csv"
ONE_EPOCH = "experiment.config.n_train_epochs=1"
BRIEF = "experiment.config.n_eval_epochs=1"  # two episodes, not four

# Whether two models have learned the same: positions and features of each graph.
COMPARE = """
import sys, torch

def graphs(path):
    state = torch.load(f"{path}/pretrained/model.pt", weights_only=False)
    return {
        (lm, name, channel): (graph.pos.tolist(), graph.x.tolist())
        for lm, part in state["lm_dict"].items()
        for name, channels in part["graph_memory"].items()
        for channel, graph in channels.items()
    }

one, other = map(graphs, sys.argv[1:])
assert len(one) == 4
print("the same" if one == other else "not the same")
"""


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    started = Exporter(tmp_path_factory.mktemp("exporter"), "verdict.lost_seconds=3")
    yield started.start()
    started.stop()


def sources(told: Dict[str, Any]) -> List[str]:
    return [one["state"] for one in told["source_list"]]


@pytest.fixture(scope="module")
def pretrained(once_for_all: Monty) -> Path:
    """A model of each of four objects, learned from one pose."""
    return once_for_all("pretrain", ONE_EPOCH).results / "pretrain"


def test_pretraining_that_logs_nothing_is_told_all_the_same(
    once_for_all: Monty, pretrained: Path, exporter: Exporter
) -> None:
    run = once_for_all("pretrain", ONE_EPOCH, "+episight=monty", env=exporter.env)
    told = ended(exporter, "pretrain")
    assert told["state"] == "completed"
    assert told["modes"]["train"]["episodes"] == 4
    assert told["modes"]["train"]["successes"] is None
    assert {one["steps"] for one in exporter.episodes(told["run"])} == {73}
    models = [str(run.results / "pretrain"), str(pretrained)]
    same = once_for_all.python_says(COMPARE, *models)
    assert same.strip().splitlines()[-1] == "the same"


def test_its_results_are_whole_and_told_as_one_run(
    monty: Monty, pretrained: Path, exporter: Exporter
) -> None:
    plain = monty("parallel", BRIEF, pretrained=pretrained)
    run = monty(
        "parallel", BRIEF, "+episight=monty", env=exporter.env, pretrained=pretrained
    )
    rows = run.rows(TABLE)
    assert rows_equal(rows, plain.rows(TABLE))
    told = ended(exporter, "parallel")
    assert told["state"] == "completed"
    assert_told(exporter, told, "eval", rows)
    indices = {one["index"] for one in exporter.episodes(told["run"])}
    assert indices == set(range(len(rows)))  # of the whole, though each had its process
    assert sources(told) == ["ended"] * (1 + len(rows))
    assert told["facts"]["monty"]["experiment"] == "MontyObjectRecognitionExperiment"
    name = "experiment_run_expected_episodes"
    assert exporter.value(name, run=told["run"], mode="eval") == len(rows)


def test_without_the_callback_all_its_processes_have_one_run_id(
    monty: Monty, pretrained: Path, exporter: Exporter
) -> None:
    run = monty(
        "parallel",
        named("hook-only"),
        "+episight=monty_hook",
        BRIEF,
        env=exporter.env,
        pretrained=pretrained,
    )
    rows = run.rows("hook-only/eval_stats.csv")
    told = exporter.run(the_run(exporter, "hook-only")["run"])
    assert told["sources"] == {"live": 0, "ended": 2, "lost": 0}
    assert told["tags"] == {"kind": "monty"}
    assert told["facts"]["monty"]["model"] == "MontyForEvidenceGraphMatching"
    assert told["modes"]["eval"]["successes"] == 2
    assert_told(exporter, told, "eval", rows)


@pytest.mark.parametrize(("when", "epochs"), [("now", 1), ("episode", 2)])
def test_a_stop_leaves_the_merge_whole(
    monty: Monty, pretrained: Path, exporter: Exporter, when: str, epochs: int
) -> None:
    name = f"stopped-{when}"
    run = monty.start(
        "parallel",
        named(name),
        f"experiment.config.n_eval_epochs={epochs}",
        "+episight=monty",
        env=exporter.env,
        pretrained=pretrained,
    )
    eventually(lambda: steps(the_run(exporter, name)) > 0, 90.0, "its first step")
    give_stop(exporter, the_run(exporter, name)["run"], when)
    run.wait()
    told = ended(exporter, name)
    assert (told["state"], told["reason"]) == ("stopped", "user")
    assert "lost" not in sources(told)
    whole = [
        one
        for one in exporter.episodes(told["run"])
        if one["outcome"] not in ("stopped", "ended")
    ]
    table = run.results / name / "eval_stats.csv"
    assert len(run.rows(str(table)) if table.exists() else []) == len(whole)
    assert len(whole) < 2 * epochs
    assert (run.results / name / "parallel_log.txt").exists()


def test_what_is_killed_in_the_middle_is_lost(
    monty: Monty, pretrained: Path, exporter: Exporter
) -> None:
    run = monty.start(
        "parallel",
        named("killed"),
        "+episight=monty",
        env=exporter.env,
        pretrained=pretrained,
    )
    eventually(lambda: steps(the_run(exporter, "killed")) > 0, 90.0, "its first step")
    os.killpg(run.child.pid, signal.SIGKILL)
    told = ended(exporter, "killed")
    assert told["state"] == "lost"
    assert "lost" in sources(told)
    owners = [one["state"] for one in told["source_list"] if one["role"] == "owner"]
    assert owners == ["lost"]
    outcomes = {one["outcome"] for one in exporter.episodes(told["run"])}
    assert outcomes <= {"lost", None, "correct", "confused", "correct_mlh"}
