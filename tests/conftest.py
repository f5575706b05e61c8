"""What all tests share: Ctrl-C that works, and compilation that does not take most of the time."""

import ctypes
import gc
import itertools
import os
import shutil
import signal
import tempfile

import jax
import pytest

# Also where the shell started the tests in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

LIBRARY = ctypes.CDLL(None)
gc.set_threshold(200_000, 20, 1000)  # there are many objects to look at, and few to collect

# Programs compiled by a process that a test starts are read by the others.
CACHE = "JAX_COMPILATION_CACHE_DIR"
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of processes that tests start
FLAGS = "--xla_backend_optimization_level=1"  # where the others are on: compiles a fifth faster
FLAGS += " --xla_cpu_parallel_codegen_split_count=1"  # the other cores have tests of their own
if jax.__version_info__ < (0, 11):  # half the time to compile; later versions have no such flag
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"


def pytest_configure(config):
    if CACHE not in os.environ:  # in the process that starts the workers
        config.compiled = os.environ[CACHE] = tempfile.mkdtemp()
    jax.config.update("jax_enable_compilation_cache", False)  # writing takes longer than it saves
    jax.config.update("jax_disable_most_optimizations", True)


def pytest_unconfigure(config):
    shutil.rmtree(getattr(config, "compiled", ""), ignore_errors=True)


@pytest.fixture(autouse=True)
def compile_quickly(request):
    """Optimises only what runs longer than it compiles."""
    runs_long = request.node.get_closest_marker("runs_long") is not None
    jax.config.update("jax_disable_most_optimizations", not runs_long)


@pytest.fixture(autouse=True)
def time_little(monkeypatch):
    """Reports of distillations time single draws alone: each size is two programs to compile."""
    monkeypatch.setattr("flows.distillation.measures.BATCHES", (1,))


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Forgets each module's programs, whose memory is limited."""
    yield
    forget()


_run = itertools.count(1)


@pytest.fixture(autouse=True)
def forget_programs_of_long_modules():
    """Forgets them now and then within a module too: a worker with too many of them crashes."""
    yield
    if next(_run) % 50 == 0:
        forget()


def forget():
    jax.clear_caches()
    if hasattr(LIBRARY, "malloc_trim"):  # glibc keeps what was freed
        LIBRARY.malloc_trim(0)
