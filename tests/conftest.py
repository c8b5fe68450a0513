"""Settings of the whole suite, most of whose time is compilation of small programs.

With SEER_JAX_TEST_AS_USERS=1 programs are compiled as users compile them. Numeric tests are run that way, too:

    SEER_JAX_TEST_AS_USERS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m numeric
"""

import collections
import gc
import importlib.metadata
import os
import pathlib
import signal
import tempfile

# Compile each program once in a session: its workers, and the processes that tests start, share what was compiled.
if "SEER_JAX_TEST_SESSION" not in os.environ:
    os.environ["SEER_JAX_TEST_SESSION"] = str(os.getpid())
    _CACHE = tempfile.TemporaryDirectory(prefix="seer_jax-tests-")
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": _CACHE.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    if os.environ.get("SEER_JAX_TEST_AS_USERS", "0") == "0":
        # Compile fast rather than well. Loops that LLVM gets from the older emitters compile in half the time, small
        # programs in one piece faster than in several. A jaxlib that lacks an option ends the process at it.
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        if importlib.metadata.version("jaxlib").startswith("0.10."):
            options = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {options}".strip()

# NumPy's products are small. With a thread for each core in each worker, threads would wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The official DeepMind Control package decides at its import what it renders with.
os.environ.setdefault("MUJOCO_GL", "egl")

import jax
import pytest

from tests.helpers import runs

# A shell that starts the suite in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take a minute and more, longest first.
_LONG = (
    "tests/run/test_fork.py",
    "tests/test_accelerators.py",
    "tests/test_mesh.py",
    "tests/run/test_hosts.py",
    "tests/run/test_as_users.py",
    "tests/experiments/test_figures.py",
    "tests/run/test_replay_ratio.py",
    "tests/run/test_kill.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Begins with the files that take longest: at the end of a session one worker would wait for another's."""
    paths = [str(item.path.relative_to(config.rootpath)) for item in items]
    sizes, places = collections.Counter(paths), {path: i for i, path in enumerate(_LONG)}
    order = sorted(range(len(items)), key=lambda i: (places.get(paths[i], len(_LONG)), -sizes[paths[i]]))
    items[:] = [items[i] for i in order]


_MANY_MAPS = 30_000


@pytest.fixture(autouse=True)
def few_programs():
    """Frees compiled programs. Linux allows a process 65,530 memory maps, and a compiler that gets no more crashes."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
        runs.forget_programs()
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def fake_envs():
    """Replaces the games by `FakeEnv`s and gives those that were made; a step must not move an array implicitly."""
    with runs.fake_games() as made:
        yield made
