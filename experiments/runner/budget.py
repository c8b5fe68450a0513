"""How many agent steps a run can take for a budget of multiply-accumulates."""

import math

import jax
from ml_collections import ConfigDict

from seer_jax import flops
from seer_jax.envs import registry
from seer_jax.run import assembly
from seer_jax.seer import phases


def steps_within(config: ConfigDict, budget: float) -> int:
    """Returns the agent steps after which a run has spent its budget; compiles nothing.

    A budget with SEER must exceed the cost of the full phase: otherwise the result is below `seer.freeze_step`, and
    resolving the configuration with it fails.

    Args:
      config: a resolved configuration; its `total_steps` is not used.
      budget: multiply-accumulates of acting and learning.
    """
    env = registry.make_env(config, training=True)
    try:
        parts = assembly.assemble(config, env.action_spec)
    finally:
        env.close()
    full = _macs_per_step(parts, phases.FULL)
    if not config.seer.enabled:
        return config.learn_start + math.ceil(budget / full)
    left = budget - (config.seer.freeze_step - config.learn_start) * full
    return config.seer.freeze_step + math.ceil(left / _macs_per_step(parts, phases.FROZEN))


def _macs_per_step(parts: assembly.Assembly, phase: str) -> float:
    """Returns the multiply-accumulates of an agent step after learning has begun."""
    config, jitted = parts.config, parts.jit(phase, jax.default_backend())
    acting = flops.count_macs(
        jitted.interact, parts.state(phase).params, parts.actor, parts.ring(phase), parts.timestep
    )
    return acting / config.num_envs + jitted.learn_macs / (parts.updates_per_learn * config.update_every)
