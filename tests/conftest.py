"""What all tests share: Ctrl-C that works, and compilation that does not take most of the time."""

import os
import shutil
import signal
import tempfile

import jax
import pytest

# Also where the shell started the tests in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs compiled by one worker or process of this session are read by the others.
CACHE = "JAX_COMPILATION_CACHE_DIR"
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
if jax.__version_info__ < (0, 11):  # half the time to compile; later versions have no such flag
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
    )

RUN_LONGER_THAN_THEY_COMPILE = ("test_density", "test_distillation", "test_variational")


def pytest_configure(config):
    if CACHE not in os.environ:  # in the process that starts the workers
        config.compiled = os.environ[CACHE] = tempfile.mkdtemp()
    jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def pytest_unconfigure(config):
    shutil.rmtree(getattr(config, "compiled", ""), ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def compile_quickly(request):
    """Optimises what runs long only; forgets each module's programs, whose memory is limited."""
    optimised = request.module.__name__ in RUN_LONGER_THAN_THEY_COMPILE
    jax.config.update("jax_disable_most_optimizations", not optimised)
    yield
    jax.clear_caches()
