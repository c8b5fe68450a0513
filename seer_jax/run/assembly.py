"""What a configuration makes: the agent and both phases, all of it as shapes until a phase allocates it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dm_env import specs

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.agents.registry import AGENTS
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.envs.timestep import TimeStep
from seer_jax.seer import capacity, pace
from seer_jax.seer.phases import FROZEN, FULL, Actor, Phase, init_actor
from seer_jax.seer.placement import Placement, make_placement

_KEY = jax.ShapeDtypeStruct((2,), np.uint32)


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly:
    """The parts of a run, with nothing allocated.

    Attributes:
      config: the configuration.
      agent: the algorithm.
      actions: shape and dtype of the actions of one time, `[E, ...]`.
      placement: the seeds, and the places of their arrays.
    """

    config: RunConfig
    agent: base.Agent
    actions: jax.ShapeDtypeStruct
    placement: Placement

    def phase(self, name: str) -> Phase:
        """Returns the phase `full` or `frozen`."""
        return self.full if name == FULL else self.frozen

    @functools.cached_property
    def full(self) -> Phase:
        """The phase in which everything is trained, on frames."""
        row = replay.row_shapes(self._timestep.frame, self.actions)
        return self._make_phase(FULL, row, jax.eval_shape(self.agent.init, _KEY))

    @functools.cached_property
    def frozen(self) -> Phase:
        """The phase in which the heads are trained, on latents."""
        state = self.full.state
        encode = functools.partial(base.latents_to_store, self.agent)
        latents = jax.eval_shape(encode, state.params, self._actor.stack, _KEY)
        stored = jax.ShapeDtypeStruct(latents.shape, self.config.replay.latent_dtype)
        row = replay.row_shapes(stored, self.actions)
        return self._make_phase(FROZEN, row, jax.eval_shape(self.agent.freeze, state))

    def _make_phase(self, name: str, row: replay.Rows, state: base.TrainState) -> Phase:
        config = self.config
        return Phase(
            name=name,
            agent=self.agent,
            ring_spec=_ring_spec(config, name),
            row=row,
            state=state,
            actor=self._actor,
            timestep=self._timestep,
            batch_size=config.agent.batch_size,
            replay_ratio=pace.replay_ratio(config.replay_ratio if name == FULL else config.seer.replay_ratio),
            reset_heads_every=(config.agent if name == FULL else config.seer).reset_heads_every,
            reset_keep=config.agent.reset_keep,
            importance_exponent=optax.linear_schedule(
                config.replay.importance_start, 1.0, config.replay.importance_steps, config.learn_start
            ),
            placement=self.placement,
        )

    @property
    def _timestep(self) -> TimeStep[jax.Array]:
        num_envs = self.config.num_envs

        def timestep() -> TimeStep[jax.Array]:
            number, flag = (jnp.zeros((num_envs,), dtype) for dtype in (jnp.float32, bool))
            frame = jnp.zeros((num_envs, *registry.frame_shape(self.config.env)), jnp.uint8)
            return TimeStep(frame, number, number, flag, flag, flag, flag)

        return jax.eval_shape(timestep)

    @property
    def _actor(self) -> Actor:
        make = functools.partial(init_actor, frame_stack=self.config.env.frame_stack)
        return jax.eval_shape(make, _KEY, self._timestep)


def _ring_spec(config: RunConfig, phase: str) -> replay.RingSpec:
    rows = capacity.full_capacity(config) if phase == FULL else capacity.frozen_capacity(config)
    return replay.RingSpec(
        num_steps=rows // config.num_envs,
        num_envs=config.num_envs,
        num_shards=config.mesh.data,
        stack=config.env.frame_stack if phase == FULL else 0,
        n_step=config.agent.n_step,
        discount=config.agent.discount,
        prioritized=config.replay.prioritized,
        priority_exponent=config.replay.priority_exponent,
        first_stack=config.env.first_stack,
    )


def assemble(config: RunConfig, action_spec: specs.Array, devices: Sequence[Any] | None = None) -> Assembly:
    """Builds the agent of a configuration.

    Args:
      config: the configuration.
      action_spec: action of one environment.
      devices: as in `placement.make_placement`.

    Raises:
      ConfigError: the mesh needs more devices than there are.
    """
    agent = AGENTS[config.agent.name].make_agent(config, action_spec)
    actions = jax.ShapeDtypeStruct((config.num_envs, *action_spec.shape), action_spec.dtype)
    return Assembly(config, agent, actions, make_placement(config, devices))
