"""Times updates without this package's CPU optimizations."""

import json
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp

from experiments.benchmark.cases import cases
from experiments.benchmark.noise import noisy_ring
from experiments.benchmark.synthetic import use_synthetic_suites
from experiments.benchmark.timing import time_each
from seer_jax.envs import registry
from seer_jax.networks import encoders
from seer_jax.run import assembly
from seer_jax.seer import pace, phases

_SECONDS = 1.0
_CYCLES = 2  # of updates, in a loop


def measure_naive(name: str, *, synthetic: bool) -> dict[str, float]:
    """Returns the median milliseconds of the full and of the latent update, timed in a new process.

    Args:
      name: of a case.
      synthetic: without EnvPool and a renderer.
    """
    # XLA reads its options when its backend starts. Here that is before seer_jax is imported, which sets options.
    code = (
        "import jax, json; jax.devices(); from experiments.benchmark import naive;"
        f" print(json.dumps(naive.measure_in_this_process({name!r}, synthetic={synthetic})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_in_this_process(name: str, *, synthetic: bool) -> dict[str, float]:
    """Returns what `measure_naive` does; changes a layer of `seer_jax` for the rest of the process.

    Updates use XLA's default kernels for convolutions, convolutions instead of patch products, gradients of
    convolutions inside a loop, and programs that copy their inputs instead of overwriting them.
    """
    encoders.ConvStage.reads_patches = False  # pyright: ignore[reportAttributeAccessIssue]
    if synthetic:
        use_synthetic_suites()
    config = cases(quick=False)[name]
    env = registry.make_env(config, training=True)
    parts = assembly.assemble(config, env.action_spec)
    env.close()
    return {"full_update": _median_update_ms(parts.full), "latent_update": _median_update_ms(parts.frozen)}


def _median_update_ms(phase: phases.Phase) -> float:
    state, ring = phase.init_state(jax.random.PRNGKey(0)), noisy_ring(phase)
    learn, due = jax.jit(phases.make_learn(phase, _CYCLES)), pace.Due(jnp.zeros(3, jnp.int32))
    times = time_each(_SECONDS, lambda: jax.block_until_ready(learn(state, ring, due)))
    return statistics.median(times) / (_CYCLES * len(phase.learner.updates))
