"""How many agent steps a run can take for a budget of multiply-accumulates."""

import math

import jax

from seer_jax import flops
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.run import assembly
from seer_jax.seer.phases import Phase


def steps_within(config: RunConfig, budget: float) -> int:
    """Returns the agent steps after which a run has spent its budget; compiles nothing.

    A budget with SEER must exceed the cost of the full phase: otherwise the result is below `seer.freeze_step`, and
    resolving the configuration with it fails.

    Args:
      config: the configuration; its `total_steps` is not used.
      budget: multiply-accumulates of acting and learning.
    """
    env = registry.make_env(config, training=True)
    try:
        parts = assembly.assemble(config, env.action_spec)
    finally:
        env.close()
    full = _macs_per_step(parts.full)
    if not config.seer.enabled:
        return config.learn_start + math.ceil(budget / full)
    left = budget - (config.seer.freeze_step - config.learn_start) * full
    return config.seer.freeze_step + math.ceil(left / _macs_per_step(parts.frozen))


def _macs_per_step(phase: Phase) -> float:
    """Returns the multiply-accumulates of an agent step after learning has begun."""
    jitted = phase.jit(jax.default_backend())
    acting = flops.count_macs(jitted.interact, phase.state.params, phase.actor, phase.ring, phase.timestep)
    return acting / phase.ring_spec.num_envs + jitted.learn_macs / phase.steps_per_learn
