"""What all tests share: Ctrl-C that works, and compiled programs that do not pile up."""

import signal

import jax
import pytest

# Also where the shell started the tests in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """XLA maps memory for each of them, and a process may have only so many maps."""
    yield
    jax.clear_caches()
