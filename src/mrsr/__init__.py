"""mrsr: super-resolution of MR images that other people can reproduce, trust and use."""

__version__ = "0.1.0"
