"""Lets any Hydra app say ``+episight=hydra``, wherever Episight is installed.

Hydra imports every module of the namespace package ``hydra_plugins`` (which therefore
has no ``__init__.py``); this one names a further place to look, and a resolver that
makes a run's id. It imports nothing of ours before that is asked for: it is imported
by apps that have nothing to do with us.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf


class EpisightSearchPath(SearchPathPlugin):
    """Appends the groups of ``experiment_hooks.conf`` to the search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="episight", path="pkg://experiment_hooks.conf")


def _run_id(name: str = "") -> str:
    """``${episight.run_id:name}``: a new run id, one for a composed configuration."""
    import os
    import time

    from experiment_hooks import launch

    return launch.new_run_id(str(name) or "run", time.time(), os.urandom(3))


OmegaConf.register_new_resolver(
    "episight.run_id", _run_id, replace=True, use_cache=True
)
