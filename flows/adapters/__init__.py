"""Bridges to other libraries: the only place that imports those that are extras."""

import importlib
from typing import Any

NAMES = ("arviz", "blackjax", "numpyro", "tfp")


def __getattr__(name: str) -> Any:
    """Imports a bridge when it is asked for."""
    if name in NAMES:
        return importlib.import_module(f"flows.adapters.{name}")
    raise AttributeError(f"module 'flows.adapters' has no attribute {name!r}: it has {NAMES}.")
