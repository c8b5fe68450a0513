"""What the benchmark times of this package."""

import functools
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark.noise import noisy_ring
from experiments.benchmark.timing import time_each, time_many
from seer_jax.agents import base
from seer_jax.envs import registry
from seer_jax.run import assembly
from seer_jax.seer import handover, phases

HANDOVER_ROWS = 512
PHASES = (phases.FULL, phases.FROZEN)


class Environments:
    """Training environments, which both sides of the benchmark step.

    Attributes:
      vector_env: the environments.
      timestep: the newest.
    """

    def __init__(self, config: ConfigDict):
        self.vector_env = registry.make_env(config, training=True)
        self.timestep = self.vector_env.reset()

    def step(self, action: np.ndarray) -> None:
        self.timestep = self.vector_env.step(action)


class JaxSide:
    """An agent of this package with its programs, and rings full of noise; a `measure.Side`.

    Attributes:
      config: a resolved configuration.
      envs: training environments.
      parts: the agent and its shapes.
      programs: compiled, by phase.
      states: of learning, by phase.
      rings: full of noise, by phase.
      actors: by phase.
    """

    def __init__(self, config: ConfigDict, envs: Environments):
        self.config, self.envs = config, envs
        self.parts = parts = assembly.assemble(config, envs.vector_env.action_spec)
        init = jax.jit(parts.agent.init)  # once for each phase: programs overwrite their state
        self.states = {
            phases.FULL: init(jax.random.PRNGKey(0)),
            phases.FROZEN: parts.agent.freeze(init(jax.random.PRNGKey(0))),
        }
        self.rings = {phase: noisy_ring(parts.spec(phase), parts.ring(phase)) for phase in PHASES}
        self.actors = {
            phase: phases.init_actor(jax.random.PRNGKey(1), envs.timestep, config.env.frame_stack) for phase in PHASES
        }
        self.programs = {phase: parts.compile(phase) for phase in PHASES}

    def time_act(self, seconds: float) -> list[float]:
        """Times encoding an observation and choosing an action, without the ring."""
        agent, params, actor = self.parts.agent, self.states[phases.FULL].params, self.actors[phases.FULL]
        return time_each(seconds, lambda: _act(agent, params, actor).block_until_ready())

    def time_learn(self, phase: str, seconds: float) -> list[float]:
        """Times an update, with sampling of its batch."""

        def learn() -> None:
            out = self.programs[phase].learn(self.states[phase], self.rings[phase])
            self.states[phase], self.rings[phase], _ = jax.block_until_ready(out)

        return [ms / self.parts.updates_per_learn for ms in time_each(seconds, learn)]

    def time_interact(self, phase: str, seconds: float) -> list[float]:
        """Times writing a row and choosing the actions of all environments."""

        def interact() -> None:
            jax.block_until_ready(self._interact(phase))

        return time_each(seconds, interact)

    def time_steps(self, phase: str, seconds: float) -> list[float]:
        """Times agent steps in the environments with their updates, in whole cycles of the agent's updates."""
        config = self.config
        steps_per_learn = self.parts.updates_per_learn * config.update_every

        def cycle() -> None:
            for begun in range(0, steps_per_learn, config.num_envs):
                action = self._interact(phase)
                if begun + config.num_envs >= steps_per_learn:  # the update runs while the environments step
                    learn = self.programs[phase].learn
                    self.states[phase], self.rings[phase], _ = learn(self.states[phase], self.rings[phase])
                self.envs.step(np.asarray(action))

        return [time_many(seconds, cycle, lambda: jax.block_until_ready(self.states[phase])) / steps_per_learn]

    def time_handover(self) -> list[float]:
        """Times a handover, per row, with the snapshot that it writes and reads back."""
        parts, full, frozen = self.parts, phases.FULL, phases.FROZEN
        ring = noisy_ring(parts.spec(full), parts.ring(full)).replace(written=jnp.int32(HANDOVER_ROWS))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            _, ring = handover.freeze(
                parts.agent,
                self.states[full],
                parts.spec(full),
                ring,
                latent_spec=parts.spec(frozen),
                latent_rows=parts.rows(frozen),
                snapshot_dir=pathlib.Path(directory),
                key=jax.random.PRNGKey(0),
            )
            jax.block_until_ready(ring)
            return [1e3 * (time.perf_counter() - began) / HANDOVER_ROWS]

    def _interact(self, phase: str) -> jax.Array:
        """Returns the actions of all environments."""
        action, self.actors[phase], self.rings[phase] = self.programs[phase].interact(
            self.states[phase].params, self.actors[phase], self.rings[phase], self.envs.timestep
        )
        return action


@functools.partial(jax.jit, static_argnums=0)
def _act(agent: base.Agent, params: base.Params, actor: phases.Actor) -> jax.Array:
    return agent.act(params, agent.encode(params, agent.view(actor.stack)), actor.key, actor.steps)
