"""Monty's Hydra callback, with configurations in small; Monty itself is not here."""

import sys
from types import ModuleType
from typing import Any, Dict

import pytest

pytest.importorskip("hydra", reason="Hydra is not installed")

from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import experiment_hooks as eh
from experiment_hooks import wire
from experiment_hooks.integrations.monty import Callback, StepHook
from experiment_hooks.testing import Listener
from tests.support import eventually

HYDRA = {
    "job": {"name": "run", "config_name": "experiment"},
    "overrides": {"task": []},
    "mode": "RUN",
    "runtime": {"output_dir": "/results"},
}


@pytest.fixture(autouse=True)
def step_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Monty at hand has step hooks."""
    name = ""
    for part in "tbp.monty.frameworks.experiments.hooks".split("."):
        name = f"{name}.{part}".strip(".")
        module = ModuleType(name)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
        above, _, own = name.rpartition(".")
        if above:
            setattr(sys.modules[above], own, module)


def composed(episight: Dict[str, Any], **monty: Any) -> DictConfig:
    """As Hydra composes it: with flags that let nobody change it."""
    config = {
        "do_train": True,
        "n_train_epochs": 2,
        "train_env_interface_args": {"object_names": ["mug", "bowl"]},
        "logging": {"run_name": "small", "output_dir": "/results"},
        **monty,
    }
    experiment = {"_target_": "montys.Experiment", "config": config}
    return flagged({"episight": episight, "experiment": experiment})


def flagged(config: Dict[str, Any]) -> DictConfig:
    made = OmegaConf.create({"hydra": HYDRA, **config})
    OmegaConf.set_struct(made, True)
    OmegaConf.set_readonly(made, True)
    return made


class Job:
    """A job with this configuration, as Hydra's ``run_job`` runs it."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self._callback = Callback()

    def __enter__(self) -> "Job":
        self._callback.on_run_start(self.config)
        self._callback.on_job_start(self.config)
        return self

    def __exit__(self, *_: Any) -> None:
        self.end(None)

    def end(self, error: Any) -> None:
        status = JobStatus.COMPLETED if error is None else JobStatus.FAILED
        returned = JobReturn(status=status, _return_value=error)
        self._callback.on_job_end(self.config, returned)


def test_the_earlier_monitors_address_is_the_runs(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPISIGHT_ENDPOINT", "tcp://127.0.0.1:9")
    with Job(composed({}, zmq_port=listener.port)):
        run = eh.current_run()
        assert run is not None
        eventually(lambda: run.url, what="somebody answers")
    assert len(listener.records(wire.RunClosed)) == 1


def test_the_earlier_monitors_switch_switches_the_run_off(listener: Listener) -> None:
    with Job(composed({}, enable_liveview=False)) as job:
        assert eh.current_run() is None
        assert "step_hook" not in job.config.experiment.config


def test_a_run_with_an_id_of_ones_own_is_the_jobs_all_the_same(
    listener: Listener,
) -> None:
    job = Job(composed({"run_id": "mine"}))
    with job:
        run = eh.current_run()
        assert run is not None
        assert (run.id, run.owned) == ("mine", True)
        job.end(ValueError("the arm is stuck"))
    (end,) = listener.records(wire.RunClosed)
    assert end.ending == "failed"


def test_a_step_hook_that_was_there_finds_what_it_refers_to(
    listener: Listener,
) -> None:
    own = {
        "_target_": "builtins.dict",
        "name": "${..logging.run_name}",
        "same": "${.name} and ${experiment.config.do_train}",
        "parts": [{"file": "${....logging.output_dir}/${..0.kind}", "kind": "log"}],
    }
    config = composed({}, step_hook=own)
    alone = instantiate(config.experiment.config.step_hook)
    with Job(config):
        hook = instantiate(config.experiment.config.step_hook)
    assert isinstance(hook, StepHook)
    assert hook._first == alone
    assert alone["parts"][0]["file"] == "/results/log"


def test_a_step_hook_may_be_written_elsewhere(listener: Listener) -> None:
    for reference in ("${experiment.config.mine}", "${.mine}"):
        mine = {"_target_": "builtins.dict", "name": "${..logging.run_name}"}
        config = composed({}, mine=mine, step_hook=reference)
        with Job(config):
            OmegaConf.set_readonly(config, False)  # Hydra resolves it where it is
            hook = instantiate(config.experiment.config.step_hook)
        assert hook._first == {"name": "small"}


def test_any_other_apps_job_is_a_run_too_and_told_so_once(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    with Job(flagged({"lr": 0.1, "episight": {}})):
        pass
    (run,) = listener.records(wire.RunOpened)
    assert (run.experiment, run.config["lr"]) == ("run", 0.1)
    assert [one for one in caplog.messages if "+episight=hydra" in one]
    assert "Traceback" not in caplog.text
