"""The experiments that come with the installed Monty take the override.

Every fourth is tried, and with ``EPISIGHT_EVERY_EXPERIMENT=1`` each: to compose all 265
twice takes Hydra more than a minute.
"""

import json
import os

import pytest

from tests.monty.running import Monty

EACH = 1 if os.environ.get("EPISIGHT_EVERY_EXPERIMENT") else 4
COMPOSE = """
import json, sys
from pathlib import Path
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
import yaml
import tbp.monty.conf, tbp.monty.hydra

root = Path(tbp.monty.conf.__file__).parent / "experiment"
names = sorted(
    str(path.relative_to(root).with_suffix(""))
    for path in root.rglob("*.yaml")
    if "/config/" not in str(path.relative_to(root))
)[::int(sys.argv[1])]
# Most files are of many experiments: each is parsed once.
parsed = {}

def load(file):
    text = file.read()
    if text not in parsed:
        parsed[text] = yaml.load(text, Loader=get_yaml_loader()) or {}
    return OmegaConf.create(parsed[text])

OmegaConf.load = load
composed, refused, changed = 0, [], []
with initialize_config_module("tbp.monty.conf", version_base=None):
    for name in names:
        def container(*more):
            config = compose("experiment", [f"experiment={name}", *more],
                             return_hydra_config=True)
            return OmegaConf.to_container(config, resolve=False)
        try:
            plain = container()
        except Exception as error:
            refused.append(f"{name}: {error}")  # no experiment, but a part of one
            continue
        watched = container("+episight=monty")
        composed += 1
        said = watched.pop("episight")
        assert said["images"] is True, said
        callbacks = watched["hydra"].pop("callbacks")
        plain["hydra"].pop("callbacks")
        target = callbacks["episight"]["_target_"]
        assert target == "experiment_hooks.integrations.monty.Callback"
        for one in (plain, watched):  # what Hydra itself notes of the overrides
            for key in ("overrides", "job", "runtime"):
                one["hydra"].pop(key)
        if plain != watched:
            changed.append(name)
# And from an experiment's own file.
own = Path("conf/experiment/own.yaml")
own.parent.mkdir(parents=True)
own.write_text("\\n".join([
    "# @package _global_", "defaults:", "  - test/evidence_lm/evidence_mujoco",
    "  - /episight: monty", "episight:", "  top_k: 3",
]))
with initialize_config_module("tbp.monty.conf", version_base=None):
    search = f"hydra.searchpath=[file://{own.parent.parent.absolute()}]"
    config = compose(
        "experiment", ["experiment=own", search], return_hydra_config=True
    )
    assert (config.episight.top_k, config.episight.images) == (3, True)
    assert config.hydra.callbacks.episight._target_ == target
    assert "step_hook" not in config.experiment.config
print(json.dumps({"composed": composed, "refused": refused, "changed": changed}))
"""


@pytest.mark.timeout(600)
def test_the_override_changes_nothing_but_what_is_ours(once_for_all: Monty) -> None:
    output = once_for_all.python_says(COMPOSE, str(EACH))
    said = json.loads(output.strip().splitlines()[-1])
    assert said["changed"] == []
    assert said["composed"] >= 265 // EACH, said["refused"][:5]
