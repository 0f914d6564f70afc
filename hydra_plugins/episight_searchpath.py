"""Lets any Hydra app say ``+episight=hydra``, wherever Episight is installed.

Hydra imports every module of the namespace package ``hydra_plugins`` (which therefore
has no ``__init__.py``); this one does nothing but name a further place to look.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class EpisightSearchPath(SearchPathPlugin):
    """Appends the groups of ``experiment_hooks.conf`` to the search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="episight", path="pkg://experiment_hooks.conf")
