"""The version, read by the build and written into saved flows."""

__version__ = "0.1.0"
