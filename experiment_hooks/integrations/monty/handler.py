"""``EpisodeHandler``: Monty's slot for who wants each episode's results.

For a Monty without a step hook (before 0.39), or beside one: then what Monty's logger
has computed is used, instead of being computed once more.

    experiment.config.logging.monty_data_logger.handlers=[
        {_target_:tbp.monty.frameworks.loggers.monty_handlers.BasicCSVStatsHandler},
        {_target_:experiment_hooks.integrations.monty.EpisodeHandler}]

Where Monty logs nothing (SILENT: most pretraining) it is never called.
"""

import sys
from pathlib import PurePath
from typing import Any, List

from tbp.monty.frameworks.loggers.monty_handlers import MontyHandler

import experiment_hooks as eh
from experiment_hooks.integrations.monty import facts, outcome, watch
from experiment_hooks.integrations.monty.say import say_once

_opened: List[eh.Run] = []


class EpisodeHandler(MontyHandler):  # type: ignore[misc]
    """Reports each episode that Monty logs.

    It has no state: from 0.5x on Monty pickles its handlers after each epoch.
    """

    def report_episode(
        self, data: Any, output_dir: Any, episode: int, mode: Any = "train", **_: Any
    ) -> None:
        """Take the results of an episode; the arguments are Monty's.

        Without a step hook the episode is told now, as a whole, without steps.
        """
        try:
            name = str(getattr(mode, "value", mode))
            stats = data["BASIC"][f"{name}_stats"][episode]
            watching = watch.current()
            if watching is not None:
                watching.report(stats)
            else:
                _tell(_run(output_dir), stats, name, episode)
        except Exception as error:
            say_once(f"an episode was not reported: {type(error).__name__}: {error}")

    def close(self) -> None:
        """The experiment is over, and so is the run that was opened for it here."""
        while _opened:
            _opened.pop().__exit__(*sys.exc_info())

    @classmethod
    def log_level(cls) -> str:
        """The level of detail that it needs: the least."""
        return "BASIC"


def _run(output_dir: Any) -> eh.Run:
    """The run that is open, or one that ends with the experiment."""
    run = eh.current_run()
    if run is None:
        run = eh.open_run(
            facts.label(PurePath(output_dir).name) or "monty",
            tags={"kind": "monty"},
            success=outcome.SUCCESS,
        )
        _opened.append(run)
    return run


def _tell(run: eh.Run, stats: Any, mode: str, episode: int) -> None:
    target = (stats.get("target") or {}).get("primary_target_object")
    found = outcome.outcome_of(stats, {}, None)
    told = run.episode(mode=mode, index=episode, target=target)
    told.finish(found.outcome, found.results, **found.attributes)
    told.close()
