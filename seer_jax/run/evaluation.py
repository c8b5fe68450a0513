"""Evaluation: plays whole episodes with fixed parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.envs.timestep import TimeStep, VectorEnv

Act = Callable[..., tuple[jax.Array, jax.Array]]


class Episodes(NamedTuple):
    """Results of `[N]` episodes: undiscounted, unclipped scores and lengths in agent steps."""

    scores: np.ndarray
    lengths: np.ndarray


def make_act(agent: base.Agent, *, first_stack: str) -> Act:
    """Returns the jitted evaluation step `(params, stack, timestep, key, step) -> (action, stack)`.

    Args:
      agent: the agent.
      first_stack: `env.first_stack` of its configuration.
    """

    @jax.jit
    def act(
        params: base.Params, stack: jax.Array, timestep: TimeStep[jax.Array], key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        stack = replay.push_frame(stack, timestep.frame, timestep.first, first_stack=first_stack)
        latents = agent.encode(params, agent.view(stack))
        return agent.act_eval(params, latents, jax.random.fold_in(key, step)), stack

    return act


def play(
    act: Act,
    params: base.Params,
    env: VectorEnv,
    key: jax.Array,
    *,
    frame_stack: int,
    frames: list[np.ndarray] | None = None,
) -> Episodes:
    """Plays one episode in every environment, so that short episodes are not counted more often than long ones.

    Args:
      act: from `make_act`.
      params: the agent's parameters.
      env: environments that play raw scores and whole games.
      key: PRNG key of the exploration that evaluation keeps.
      frame_stack: frames in an observation.
      frames: a list that receives the frames of the first episode, `[H, W, C]` uint8 each.
    """
    step, now = 0, env.reset()
    stack = replay.empty_stack(now.frame.shape, frame_stack)
    scores, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    running = np.ones(env.num_envs, bool)
    while running.any():
        if frames is not None and running[0]:
            frames.append(now.frame[0])
        action, stack = act(params, stack, now, key, np.int32(step))
        now = env.step(np.asarray(action))
        step += 1
        scores += np.where(running, now.score, 0.0)
        lengths += running
        running &= ~now.last
    return Episodes(scores, lengths)
