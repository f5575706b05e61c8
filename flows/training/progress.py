"""What a run shows of itself: a bar on a terminal or in a notebook, plain lines in a log."""

import sys
import time
from contextlib import AbstractContextManager
from typing import Any

import jax
from tqdm.auto import tqdm

FIRST_LINE_S, NEXT_LINE_S = 2.0, 10.0


def progress_bar(num_steps: int, step: int, description: str, progress: bool) -> Any:
    """What shows a run on stderr: a bar where one can be drawn, otherwise lines.

    Of several processes only the first shows anything.

    Args:
        num_steps: Steps planned.
        step: Steps done before.
        description: What to call the run.
        progress: False for silence.

    Returns:
        A context manager with the methods `set_postfix` and `update` of `tqdm.tqdm`.
    """
    if not progress or jax.process_index() > 0:
        return tqdm(disable=True)
    if sys.stderr.isatty() or _in_notebook():
        return tqdm(total=num_steps, initial=step, desc=description, unit="step")
    return Lines(num_steps, step, description)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class Lines(AbstractContextManager):
    """A line now and then: none before two seconds, then every ten, and one at the end.

    The clock starts with the first update, when the steps have been compiled.
    """

    def __init__(self, num_steps: int, step: int, description: str):
        self.num_steps, self.step, self.description = num_steps, step, description
        self._losses = ""
        self._since: tuple[float, int] | None = None  # time and step of the line before
        self._wait = FIRST_LINE_S

    def set_postfix(self, losses: dict[str, str], refresh: bool = False) -> None:
        self._losses = "".join(f", {name} {loss}" for name, loss in losses.items())

    def update(self, num_steps: int) -> None:
        self.step += num_steps
        now = time.monotonic()
        if self._since is None:
            self._since = now, self.step
        elif now - self._since[0] >= self._wait:
            self._write(now)

    def __exit__(self, *exception) -> None:
        if self._wait == NEXT_LINE_S and self._since[1] < self.step:  # type: ignore[index]
            self._write(time.monotonic())

    def _write(self, now: float) -> None:
        before, step = self._since  # type: ignore[misc]
        rate = (self.step - step) / (now - before)
        print(
            f"{self.description}: step {self.step:,} of {self.num_steps:,}, {rate:,.3g} steps/s"
            f"{self._losses}", file=sys.stderr, flush=True,
        )  # fmt: skip
        self._since, self._wait = (now, self.step), NEXT_LINE_S
