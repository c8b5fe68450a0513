"""How many rows the rings of both phases have (section 4.2 of the paper)."""

import math

import jax.numpy as jnp

from seer_jax import replay
from seer_jax.agents.registry import AGENTS
from seer_jax.config import RunConfig
from seer_jax.envs import registry


def bytes_per_row(config: RunConfig) -> tuple[int, int]:
    """Returns the bytes of one stored observation in the full phase (P of the paper) and in the frozen phase."""
    num_latents, latent_size = AGENTS[config.agent.name].latent_shape(config)
    itemsize = jnp.dtype(config.replay.latent_dtype).itemsize
    frame = math.prod(registry.frame_shape(config.env))
    return frame, itemsize * config.seer.num_copies * num_latents * latent_size


def capacity_in_same_bytes(config: RunConfig) -> int:
    """Returns C_hat of section 4.2 of the paper: how many latents fit into the bytes of `replay.capacity` frames."""
    frame, latent = bytes_per_row(config)
    return config.replay.capacity * frame // latent


def full_capacity(config: RunConfig) -> int:
    """Returns the rows of the image ring: C, or as many as the run can fill in the full phase if that is less."""
    return min(config.replay.capacity, _most_rows(config, config.full_steps))


def frozen_capacity(config: RunConfig) -> int:
    """Returns the rows of the latent ring: C_hat if it grows, C otherwise, or as many as the run can fill.

    It is never less than that of the image ring, whose rows it takes over.
    """
    grown = capacity_in_same_bytes(config) if config.replay.grow_after_freeze else 0
    return min(max(grown, config.replay.capacity), _most_rows(config, config.total_steps))


def _most_rows(config: RunConfig, steps: int) -> int:
    """Returns an upper bound of the rows that a run writes in its first `steps` agent steps.

    Every episode has a step, and at most one row more than steps. A run of S steps therefore writes at most 2 S rows,
    and a few more because it steps all environments together.
    """
    smallest = replay.min_steps(config.agent.n_step, config.env.frame_stack)
    return 2 * steps + (smallest + 2) * config.num_envs
