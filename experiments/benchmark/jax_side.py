"""What the benchmark times of this package."""

import functools
import pathlib
import tempfile
import time

import jax
import numpy as np

from experiments.benchmark.noise import noisy_ring
from experiments.benchmark.timing import time_each, time_many
from seer_jax.agents import base
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.run import assembly
from seer_jax.seer import handover, phases

HANDOVER_ROWS = 512
PHASES = (phases.FULL, phases.FROZEN)


def whole_turn(phase: phases.Phase) -> tuple[int, int]:
    """Returns the fewest steps of all environments that make whole calls of `learn` due, and the number of calls."""
    calls = phase.ring_spec.num_envs * phase.replay_ratio / phase.updates_per_learn()
    return calls.denominator, calls.numerator


class Environments:
    """Training environments of all seeds, which both sides of the benchmark step.

    Attributes:
      vector_env: the environments.
      timestep: the newest.
    """

    def __init__(self, config: RunConfig) -> None:
        self.vector_env = registry.make_env(config, training=True, pools=[0] * config.num_seeds)
        self.timestep = self.vector_env.reset()

    def step(self, action: np.ndarray) -> None:
        self.timestep = self.vector_env.step(action)


class AgentArrays:
    """The arrays of an agent in both phases.

    Attributes:
      config: the configuration.
      envs: training environments.
      phases: by name, as all of the following.
      states: of learning.
      rings: full of noise.
    """

    def __init__(self, config: RunConfig, envs: Environments) -> None:
        self.config, self.envs = config, envs
        parts = assembly.assemble(config, envs.vector_env.action_spec)
        self.phases = {name: parts.phase(name) for name in PHASES}
        # Programs overwrite their state, so each phase has its own.
        self.states = {name: phase.init_state(jax.random.PRNGKey(0)) for name, phase in self.phases.items()}
        self.rings = {name: noisy_ring(phase) for name, phase in self.phases.items()}


class JaxSide(AgentArrays):
    """An agent of this package with its programs; a `measure.Side`.

    Attributes:
      actors: what acting remembers, by phase.
      programs: compiled, by phase.
    """

    def __init__(self, config: RunConfig, envs: Environments) -> None:
        super().__init__(config, envs)
        self.actors = {
            name: phases.init_actor(jax.random.PRNGKey(1), envs.timestep, config.env.frame_stack) for name in PHASES
        }
        self.programs = {name: phase.compile() for name, phase in self.phases.items()}
        self._due = {name: phase.whole_call() for name, phase in self.phases.items()}

    def time_act(self, seconds: float) -> list[float]:
        """Times encoding an observation and choosing an action, without the ring."""
        name = phases.FULL
        agent, params, actor = self.phases[name].agent, self.states[name].params, self.actors[name]
        return time_each(seconds, lambda: _act(agent, params, actor).block_until_ready())

    def time_learn(self, phase: str, seconds: float) -> list[float]:
        """Times an update, with sampling of its batch."""

        times = time_each(seconds, lambda: jax.block_until_ready(self._learn(phase)))
        return [ms / self.phases[phase].updates_per_learn() for ms in times]

    def time_interact(self, phase: str, seconds: float) -> list[float]:
        """Times writing a row and choosing the actions of all environments."""

        def interact() -> None:
            jax.block_until_ready(self._interact(phase))

        return time_each(seconds, interact)

    def time_steps(self, phase: str, seconds: float) -> list[float]:
        """Times agent steps in the environments with their updates, in whole cycles of the agent's updates."""
        vector_steps, calls = whole_turn(self.phases[phase])

        def cycle() -> None:
            for step in range(vector_steps):
                action = self._interact(phase)
                if step == vector_steps - 1:  # the updates run while the environments step
                    for _ in range(calls):
                        self._learn(phase)
                self.envs.step(np.asarray(action))

        steps = vector_steps * self.config.num_envs
        return [time_many(seconds, cycle, lambda: jax.block_until_ready(self.states[phase])) / steps]

    def time_handover(self) -> list[float]:
        """Times a handover, per row, with the snapshot that it writes and reads back."""
        full, frozen = self.phases[phases.FULL], self.phases[phases.FROZEN]
        ring = jax.block_until_ready(noisy_ring(full, HANDOVER_ROWS))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            seeds = {0: handover.SeedFreeze(pathlib.Path(directory), jax.random.PRNGKey(0))}
            _, ring = handover.freeze(full, frozen, self.states[phases.FULL], ring, seeds)
            jax.block_until_ready(ring)
            return [1e3 * (time.perf_counter() - began) / HANDOVER_ROWS]

    def _learn(self, phase: str) -> object:
        """Makes the updates of one call of `learn`; returns its results."""
        out = self.programs[phase].learn(self.states[phase], self.rings[phase], self._due[phase])
        self.states[phase], self.rings[phase], _ = out
        return out

    def _interact(self, phase: str) -> jax.Array:
        """Returns the actions of all environments."""
        action, self.actors[phase], self.rings[phase] = self.programs[phase].interact(
            self.states[phase].params, self.actors[phase], self.rings[phase], self.envs.timestep
        )
        return action


@functools.partial(jax.jit, static_argnums=0)
def _act(agent: base.Agent, params: base.Params, actor: phases.Actor) -> jax.Array:
    return agent.act(params, agent.encode(params, agent.view(actor.stack)), actor.key, actor.steps)
