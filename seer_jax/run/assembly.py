"""What a configuration makes: an agent, its rings and its programs, all of them as shapes until they are asked for."""

import dataclasses
import functools

import jax
import numpy as np
import optax
from dm_env import specs
from ml_collections import ConfigDict

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import registry
from seer_jax.envs.timestep import TimeStep
from seer_jax.seer import handover, phases

_KEY = jax.ShapeDtypeStruct((2,), np.uint32)


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly:
    """The parts of a run, with nothing allocated.

    Attributes:
      config: a resolved configuration.
      agent: the algorithm.
      actions: shape and dtype of the actions of one time, `[E, ...]`.
    """

    config: ConfigDict
    agent: base.Agent
    actions: jax.ShapeDtypeStruct

    @property
    def updates_per_learn(self) -> int:
        """Updates in one call of `learn`, whole cycles of the agent's."""
        return max(len(self.agent.updates), self.config.num_envs // self.config.update_every)

    @property
    def timestep(self) -> TimeStep:
        """Shapes of what the environments send."""
        num_envs = self.config.num_envs
        number, flag = (jax.ShapeDtypeStruct((num_envs,), dtype) for dtype in (np.float32, bool))
        frame = jax.ShapeDtypeStruct((num_envs, *registry.frame_shape(self.config)), np.uint8)
        return TimeStep(frame, number, number, flag, flag, flag, flag)

    @property
    def actor(self) -> phases.Actor:
        """Shapes of what acting remembers."""
        *shape, channels = self.timestep.frame.shape
        return phases.Actor(
            stack=jax.ShapeDtypeStruct((*shape, channels * self.config.env.frame_stack), np.uint8),
            key=_KEY,
            steps=jax.ShapeDtypeStruct((), np.int32),
        )

    def state(self, phase: str) -> base.TrainState:
        """Shapes of what learning changes."""
        state = jax.eval_shape(self.agent.init, _KEY)
        return state if phase == phases.FULL else jax.eval_shape(self.agent.freeze, state)

    def spec(self, phase: str) -> replay.RingSpec:
        config, full = self.config, phase == phases.FULL
        capacity = handover.full_capacity(config) if full else handover.frozen_capacity(config)
        return replay.RingSpec(
            num_steps=capacity // config.num_envs,
            num_envs=config.num_envs,
            stack=config.env.frame_stack if full else 0,
            n_step=config.agent.n_step,
            discount=config.agent.discount,
            prioritized=config.replay.prioritized,
            priority_exponent=config.replay.priority_exponent,
        )

    def rows(self, phase: str) -> replay.Rows:
        """Shapes of the rows of one time."""
        if phase == phases.FULL:
            return replay.row_shapes(self.timestep.frame, self.actions)
        params, dtype = self.state(phases.FULL).params, self.config.replay.latent_dtype
        return handover.latent_rows(self.agent, params, self.actor.stack, self.actions, dtype)

    def ring(self, phase: str) -> replay.Ring:
        """Shapes of the ring; `replay.init(spec(phase), rows(phase))` makes one."""
        return jax.eval_shape(functools.partial(replay.init, self.spec(phase)), self.rows(phase))

    def jit(self, phase: str, platform: str) -> phases.Jitted:
        """Builds both programs of a phase for a platform."""
        config = self.config
        total_updates = (config.total_steps - config.learn_start) // config.update_every
        return phases.jit_programs(
            self.agent,
            self.spec(phase),
            phase,
            batch_size=config.agent.batch_size,
            num_updates=self.updates_per_learn,
            importance_exponent=optax.linear_schedule(config.replay.importance_start, 1.0, total_updates),
            platform=platform,
        )

    def compile(self, phase: str) -> phases.Programs:
        """Compiles both programs of a phase for the default device."""
        return phases.compile_programs(
            self.jit(phase, jax.default_backend()),
            self.agent,
            phase,
            state=self.state(phase),
            actor=self.actor,
            ring=self.ring(phase),
            timestep=self.timestep,
        )


def assemble(config: ConfigDict, action_spec: specs.Array) -> Assembly:
    """Builds the agent of a resolved configuration, for actions like `action_spec` of one environment."""
    agent = AGENTS[config.agent.name].make_agent(config, action_spec)
    return Assembly(config, agent, jax.ShapeDtypeStruct((config.num_envs, *action_spec.shape), action_spec.dtype))
