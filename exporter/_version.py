"""The version: one for both packages."""

from experiment_hooks._version import __version__ as version

__all__ = ["version"]
