"""docs/monty.md: its tables are the code's, and so is the config group."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Dict, List

import yaml

from experiment_hooks import wire
from experiment_hooks.integrations.monty import StepHook
from experiment_hooks.integrations.monty.options import Options
from experiment_hooks.testing import Listener
from tests.monty_stand_in import Experiment, Lm, Model
from tests.test_docs import ROOT, rows, section, words

GROUP = ROOT / "experiment_hooks" / "conf" / "episight" / "monty.yaml"


def defaults() -> Dict[str, object]:
    """What each option is where nobody says anything."""
    made = Options()
    return {one.name: getattr(made, one.name) for one in fields(Options)}


def test_the_config_group_has_every_option_with_its_default() -> None:
    group = yaml.safe_load(GROUP.read_text(encoding="utf-8"))
    assert group["episight"] == defaults()


def test_every_option_is_documented_with_its_default() -> None:
    said = {
        words(row[0])[0].replace("episight.", ""): row[1]
        for row in rows(section("docs/monty.md", "Options").prose)
    }
    assert set(said) == set(defaults())
    for name, default in defaults().items():
        if isinstance(default, (bool, int, float)):
            assert float(yaml.safe_load(said[name].strip("`"))) == default, name


def test_every_metric_and_result_is_documented(listener: Listener) -> None:
    lms = [Lm({"mug": 2.0, "bowl": 1.0}), Lm({"bowl": 1.0, "mug": 0.5})]
    with Experiment(Model(lms), StepHook(objects=2)) as experiment:
        experiment.run()
    told: Dict[str, List[str]] = {}
    for schema in listener.records(wire.Schema):
        for metric in schema.metrics:
            if metric.name.startswith("monty_"):
                total = "_total" if metric.type == "counter" else ""
                told[f"experiment_{metric.name}{total}"] = sorted(metric.labels)
    prose = section("docs/monty.md", "Metrics").prose
    documented = {words(row[0])[0]: sorted(words(row[2])) for row in rows(prose)}
    assert documented == told
    results = set(words(prose.partition("`result`:")[2]))
    for episode in listener.episodes():
        assert set(episode.results) <= results


def test_what_the_page_says_of_files_is_there() -> None:
    page = Path(ROOT / "docs" / "monty.md").read_text(encoding="utf-8")
    for name in re.findall(r"experiment_hooks\.integrations\.monty\.(\w+)", page):
        module = ROOT / "experiment_hooks" / "integrations" / "monty" / "__init__.py"
        assert f'"{name}"' in module.read_text(encoding="utf-8")
