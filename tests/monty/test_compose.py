"""Every experiment that comes with the installed Monty takes the override."""

from tests.monty.running import Monty

COMPOSE = """
import importlib.resources, json, sys
from pathlib import Path
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
import tbp.monty.conf, tbp.monty.hydra

root = Path(tbp.monty.conf.__file__).parent / "experiment"
names = sorted(
    str(path.relative_to(root).with_suffix(""))
    for path in root.rglob("*.yaml")
    if "/config/" not in str(path.relative_to(root))
)
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
print(json.dumps({"composed": composed, "refused": refused, "changed": changed}))
"""


def test_the_override_changes_nothing_but_what_is_ours(once_for_all: Monty) -> None:
    import json

    said = json.loads(once_for_all.python_says(COMPOSE).strip().splitlines()[-1])
    assert said["changed"] == []
    assert said["composed"] >= 265, said["refused"][:5]
