"""The version, for those who must not import more."""

__version__ = "0.2.0"
