"""What updates cost without our habits."""

import json
import statistics
import subprocess
import sys

import flax.linen as nn
import jax

from experiments.benchmark.bench import noisy_ring, repeat
from experiments.benchmark.cases import cases
from seer_jax.envs import registry
from seer_jax.networks import encoders
from seer_jax.run import assembly
from seer_jax.seer import phases


def naive_update_ms(name: str) -> dict[str, float]:
    """Times both updates without our habits, in a process of its own; called by `measure_naive`.

    XLA's default kernels for convolutions, convolutions where we have patch products, their gradients in a loop, and
    nothing donated.
    """
    encoders.PatchConv = lambda features, patch, init_fns: nn.Conv(features, (patch, patch), patch, padding="VALID")
    config = cases(quick=False)[name]
    env = registry.make_env(config, training=True)
    parts = assembly.assemble(config, env.action_spec)
    env.close()
    medians = {}
    for phase, update in ((phases.FULL, "full_update"), (phases.FROZEN, "latent_update")):
        state = jax.jit(parts.agent.init)(jax.random.PRNGKey(0))
        state = state if phase == phases.FULL else parts.agent.freeze(state)
        ring = noisy_ring(parts.spec(phase), parts.ring(phase))
        learn = phases.make_learn(
            parts.agent,
            parts.spec(phase),
            phase,
            batch_size=config.agent.batch_size,
            num_updates=parts.updates_per_learn,
            importance_exponent=lambda _: 1.0,
            unroll=False,
        )
        learn = jax.jit(learn)
        took = repeat(1.0, lambda learn=learn, s=state, r=ring: jax.block_until_ready(learn(s, r)))
        medians[update] = statistics.median(took) / parts.updates_per_learn
    return medians


def measure_naive(name: str) -> dict[str, float]:
    # XLA reads its options when the backend starts: before the package is imported, and so without the package's.
    code = (
        "import jax, json; jax.devices(); from experiments.benchmark import naive;"
        f" print(json.dumps(naive.naive_update_ms({name!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
