"""The version of the distribution: read by the build and by both packages."""

__version__ = "0.1.0"
