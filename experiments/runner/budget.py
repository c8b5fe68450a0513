"""How many agent steps a run can take for a budget of multiply-accumulates."""

import math

import jax

from seer_jax import flops
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.fields import ConfigError
from seer_jax.run import assembly
from seer_jax.seer.phases import Phase


def steps_within(config: RunConfig, budget: float) -> int:
    """Returns the agent steps after which a run has spent its budget; compiles nothing.

    Args:
      config: the configuration; its `total_steps` is not used.
      budget: multiply-accumulates of acting and learning.

    Raises:
      ConfigError: the run has SEER, and the full phase alone spends the budget.
    """
    per_step, per_frozen_step = macs_per_step(config)
    if not config.seer.enabled:
        return config.learn_start + math.ceil(budget / per_step)
    freeze_step = config.full_steps
    full = (freeze_step - config.learn_start) * per_step
    if budget <= full:
        raise ConfigError(
            f"budget={budget:.3g} multiply-accumulates is not more than the full phase alone costs, {full:.3g} up to"
            f" seer.freeze_step={freeze_step}: raise the budget, or lower seer.freeze_step"
        )
    return freeze_step + math.ceil((budget - full) / per_frozen_step)


def macs_per_step(config: RunConfig) -> tuple[float, float]:
    """Returns the multiply-accumulates of an agent step after learning has begun, full and frozen; compiles nothing."""
    env = registry.make_env(config, training=True)
    try:
        parts = assembly.assemble(config, env.action_spec)
    finally:
        env.close()
    return _macs_per_step(parts.full), _macs_per_step(parts.frozen)


def _macs_per_step(phase: Phase) -> float:
    jitted = phase.jit(jax.default_backend())
    acting = flops.count_macs(jitted.interact, phase.state.params, phase.actor, phase.ring, phase.timestep)
    return acting / phase.ring_spec.num_envs + jitted.update_macs * float(phase.replay_ratio)
