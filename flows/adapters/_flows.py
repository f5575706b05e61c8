"""What flows must be to stand in other libraries."""

from typing import Any

from flows import supports


def require_bound(flow: Any) -> None:
    """Raises if a flow still waits for a context."""
    if getattr(flow, "context_size", None) is not None:
        raise ValueError("flow waits for a context: pass flow.condition(context).")


def can_be_latent(columns: supports.Columns) -> bool:
    """Whether real numbers map one-to-one onto the supports: not onto integers, nor angles."""
    return not supports.of_kind(columns, "circle", "integers").any()
