"""Hydra: each job of any app is a run, by one override and without a line of code.

``+episight=hydra``, or ``+hydra.callbacks.episight._target_=`` and this module's
``Episight``. The run starts and ends with the job, whatever starts it: ``hydra.main``,
a sweep, a launcher in another process. It carries the composed configuration, the
overrides and where the output is. What goes wrong in here is logged, and the job goes
on.

An app that calls ``open_run`` itself is given the job's run: the app's name,
configuration and expectations come before those of the job, and the job's end is the
run's. To have a run of its own it says ``run_id``.

Hydra does not say when a job leaves by Ctrl-C or ``sys.exit``: then the run ends with
the process, by what ended that.
"""

import logging
from typing import Any, Dict, Optional

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

import experiment_hooks as eh
from experiment_hooks import endings
from experiment_hooks.settings import Settings

logger = logging.getLogger("experiment_hooks")


class Episight(Callback):
    """Opens a run when a job starts and closes it when the job ends."""

    def __init__(self, name: Optional[str] = None, **options: Any) -> None:
        """Say what the configuration does not.

        Args:
            name: the experiment's name; by default the job's, ``hydra.job.name``.
            options: further arguments of ``open_run``: ``tags``, ``success``, ...
        """
        self._name = name
        self._options = options
        self._run: Optional[eh.Run] = None

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the run; Hydra calls this before the app's function."""
        try:
            self._close(None)
            self._run = self._opened(config)
        except Exception:
            logger.warning("episight: the job goes on unwatched", exc_info=True)

    def on_job_end(
        self, config: DictConfig, job_return: JobReturn, **kwargs: Any
    ) -> None:
        """Close the run, as completed or by what the app's function raised."""
        try:
            self._close(_error(job_return))
        except Exception:
            logger.warning("episight: a run's end was not said", exc_info=True)

    def _opened(self, config: DictConfig) -> eh.Run:
        job = config.hydra.job
        given: Dict[str, Any] = {
            "config": composed(config),
            "facts": {"hydra": facts(config)},
            **self._options,
        }
        run = eh.open_run(self._name or str(job.name), **given)
        return run.take_guests().__enter__()

    def _close(self, error: Optional[BaseException]) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.end(*endings.of_run(error))

    def __getstate__(self) -> Dict[str, Any]:
        # Launchers pickle the callback on its way to the job.
        return {**self.__dict__, "_run": None}


def composed(config: DictConfig) -> Any:
    """The app's configuration as composed: interpolations stay as they are written.

    Resolving them could run the app's resolvers, and bring secrets of the environment.
    """
    whole = OmegaConf.to_container(config, resolve=False)
    assert isinstance(whole, dict)
    return {key: value for key, value in whole.items() if key != "hydra"}


def facts(config: DictConfig) -> Dict[str, Any]:
    """What Hydra knows of the job, for the run's page."""
    hydra = config.hydra
    found = {
        "config": _said(hydra, "job.config_name"),
        # Iterating over them would resolve the interpolations in them.
        "overrides": OmegaConf.to_container(hydra.overrides.task, resolve=False),
        "mode": getattr(_said(hydra, "mode"), "name", None),
    }
    if not Settings.from_environment().private:
        found["output"] = _said(hydra, "runtime.output_dir")
    if found["mode"] == "MULTIRUN":
        found["job"] = _said(hydra, "job.num")
    return {name: value for name, value in found.items() if value is not None}


def _said(hydra: DictConfig, key: str) -> Any:
    """A value of Hydra's own configuration; None where it is missing."""
    return OmegaConf.select(hydra, key, throw_on_missing=False)


def _error(job_return: JobReturn) -> Optional[BaseException]:
    if job_return.status == JobStatus.COMPLETED:
        return None
    # Hydra's return_value would raise it.
    error = job_return._return_value
    return error if isinstance(error, BaseException) else None
