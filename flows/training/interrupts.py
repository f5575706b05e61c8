"""Ctrl-C at a time that suits."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within it the first Ctrl-C only sets a flag; the second one raises as usual.

    Compiled steps overwrite their input, so an exception between two lines could lose both the
    old state and the new one. Yields the function that says whether Ctrl-C was pressed. In threads
    other than the main one, which Python never interrupts, and in processes that ignore Ctrl-C,
    such as a shell's background jobs, it does nothing.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = []

    def handle(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def attaching(module: Any) -> Iterator[None]:
    """Attaches a trained module, as `.module`, to what ends the block: an error or Ctrl-C."""
    try:
        yield
    except BaseException as error:
        error.module = module  # type: ignore[attr-defined]
        raise
