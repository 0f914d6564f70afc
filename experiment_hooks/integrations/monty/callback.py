"""``Callback``: Hydra's word of when a Monty job starts and ends, and how.

The config group ``episight: monty`` names it. When a job starts it opens the run, with
the composed configuration and what is to be expected, before Monty sets anything up;
when the job ends it ends the run, as Monty ended. The processes of ``run_parallel``
join that run, and no end of theirs is the run's.

And it puts the step hook in its place, in the configuration that this very job is about
to use: the one that the group composed stays as the experiment's author wrote it. A
step hook that is there already comes to be the first of the two.
"""

import logging
import re
import sys
from dataclasses import replace
from typing import Any, Dict, List, Optional

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

import experiment_hooks as eh
from experiment_hooks import endings
from experiment_hooks.integrations import hydra as jobs
from experiment_hooks.integrations.monty import facts, former, outcome
from experiment_hooks.integrations.monty.options import Options, read
from experiment_hooks.integrations.monty.say import say_once
from experiment_hooks.integrations.monty.watch import environment

logger = logging.getLogger("experiment_hooks")

HOOK = "experiment_hooks.integrations.monty.StepHook"
BUILD = "experiment_hooks.integrations.monty.build"
NODE = "episight"
_NO_MONTY = (
    "there is no experiment.config here, so the job is watched as any is; say "
    "+episight=hydra"
)
_RELATIVE = re.compile(r"\$\{(\.+)")


class Callback(jobs.Episight):
    """Makes a run of each job of Monty's ``run.py`` and ``run_parallel.py``."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Put the step hook in place; Hydra copies the configuration after this."""
        try:
            _install(config)
        except Exception:
            logger.warning("episight: Monty goes on unwatched", exc_info=True)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the run; in a multirun put the step hook in place, too."""
        self._parallel = _is_parallel(kwargs.get("task_function"))
        try:
            if _options(config).disabled:
                return
            # Of a multirun's jobs there is no earlier word, and this one comes with a
            # copy: the configuration that the job will use is the caller's own.
            if _is_monty(config) and not _is_installed(config):
                _install(_of_the_job())
        except Exception:
            logger.warning("episight: Monty's steps go unwatched", exc_info=True)
        super().on_job_start(config, **kwargs)

    def _opened(self, config: DictConfig) -> eh.Run:
        options = _options(config)
        # Not its id: by the environment the run would be somebody else's.
        with environment(replace(options, run_id=None)):
            if not _is_monty(config):
                say_once(_NO_MONTY)
                return super()._opened(config)
            return self._opened_for_monty(config, options)

    def _opened_for_monty(self, config: DictConfig, options: Options) -> eh.Run:
        monty = config.experiment.config
        kind = facts.short_name(facts.get(config, "experiment._target_"))
        given: Dict[str, Any] = {
            "config": jobs.composed(config),
            "facts": {
                "monty": facts.facts(monty, kind),
                "hydra": jobs.facts(config),
            },
            "tags": {"kind": "monty", **options.tags},
            "success": outcome.SUCCESS if facts.success_is_told(kind) else None,
            "expected_episodes": _expected(config, parallel=self._parallel),
            "promise": options.promise,
            "run_id": options.run_id,
            **self._options,
        }
        name = self._name or options.name or facts.run_name(monty) or "monty"
        run = eh.open_run(name, stoppable=True, **given)
        return run.take_guests().__enter__()

    def _close(self, error: Optional[BaseException]) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        try:
            # Its other processes have stopped, and this one had nothing to stop.
            if error is None:
                run.heed_stop()
        except eh.RunStopped as stopped:
            error = stopped
        run.end(*endings.of_run(error))


def _options(config: DictConfig) -> Options:
    found, problems = read(_given(config))
    for problem in problems:
        say_once(problem)
    return found


def _given(config: DictConfig) -> Dict[str, Any]:
    """What the node says, before what the earlier monitor's settings mean."""
    found = former.options(facts.get(config, "experiment.config"))
    node = config.get(NODE)
    said = OmegaConf.to_container(node, resolve=True) if node is not None else {}
    assert isinstance(said, dict)
    found.update({str(key): value for key, value in said.items() if value is not None})
    return found


def _is_monty(config: DictConfig) -> bool:
    return facts.get(config, "experiment.config") is not None


def _is_installed(config: DictConfig) -> bool:
    target = facts.get(config, "experiment.config.step_hook._target_")
    made = facts.get(config, "experiment._target_")
    return bool(target == HOOK or made == BUILD)


def _install(config: DictConfig) -> None:
    """Let the configuration of a job name our step hook, with what it has to know."""
    if not _is_monty(config):
        return
    monty = config.experiment.config
    for sentence in former.said(config):
        say_once(sentence)
    options = _given(config)
    if read(options)[0].disabled or _is_installed(config):
        return
    options.setdefault("name", facts.run_name(monty) or "monty")
    hook: Dict[str, Any] = {"_target_": HOOK, "told": True, **options}
    with read_write(config), open_dict(config):
        if not _has_step_hooks():
            experiment = config.experiment
            experiment.watched = hook
            experiment.made = experiment._target_
            experiment._target_ = BUILD
            return
        first = monty.get("step_hook")
        if first is not None:
            written: Any = OmegaConf.to_container(monty, resolve=False)
            hook["first"] = _deeper(written["step_hook"])
        monty.step_hook = hook


def _deeper(node: Any, depth: int = 1) -> Any:
    """A node that comes to be a level deeper; ``depth`` levels of it are around.

    Relative interpolations that lead out of it (``${..logging.run_name}``) have a level
    more to go.
    """
    if isinstance(node, dict):
        return {key: _deeper(value, depth + 1) for key, value in node.items()}
    if isinstance(node, list):
        return [_deeper(value, depth + 1) for value in node]
    if not isinstance(node, str):
        return node
    return _RELATIVE.sub(lambda found: found[0] + "." * (len(found[1]) >= depth), node)


def _has_step_hooks() -> bool:
    """Whether the Monty at hand has step hooks: those since 0.39 do."""
    try:
        from tbp.monty.frameworks.experiments import hooks  # noqa: F401
    except ImportError:
        return False
    return True


def _of_the_job() -> DictConfig:
    """The configuration that the job's function is about to be called with.

    Hydra's ``run_job`` has made it before it calls us, and gives us another one.
    """
    frame = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("task_cfg")
        if isinstance(found, DictConfig):
            return found
        frame = frame.f_back  # type: ignore[assignment]
    raise LookupError("this version of Hydra does not say what the job's config is")


def _is_parallel(task: Any) -> bool:
    return str(getattr(task, "__module__", "")).endswith("run_parallel")


def _expected(config: DictConfig, *, parallel: bool) -> Dict[str, int]:
    monty = config.experiment.config
    expected = facts.expected_episodes(monty)
    if not parallel:
        return expected
    try:
        if "train" in expected:  # one process an object, each with all its poses
            expected["train"] = len(_chosen(config, "train")) * _poses(monty)
        if "eval" in expected:
            expected["eval"] = len(_chosen(config, "eval"))
    except Exception:  # then nobody is told how many there will be
        return {}
    return expected


def _chosen(config: DictConfig, mode: str) -> List[int]:
    """Which of the processes' episodes ``episodes=`` chooses."""
    from tbp.monty.frameworks.run_parallel import parse_episode_spec

    monty = config.experiment.config
    epochs = monty.n_eval_epochs if mode == "eval" else 1
    total = len(facts.names(monty, mode)) * epochs
    return list(parse_episode_spec(config.get("episodes"), total))


def _poses(monty: DictConfig) -> int:
    from hydra.utils import instantiate

    return len(instantiate(monty.train_env_interface_args.object_init_sampler))
