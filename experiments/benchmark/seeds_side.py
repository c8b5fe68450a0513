"""Several seeds of an agent in one program, and what the device benchmark times of them."""

import dataclasses

import jax
import numpy as np

from experiments.benchmark.jax_side import Environments, whole_turn
from experiments.benchmark.noise import noisy_ring
from experiments.benchmark.timing import time_each, time_many
from seer_jax.config import RunConfig
from seer_jax.run import assembly, compiled
from seer_jax.run.seed import Keys, configs_of
from seer_jax.run.state import begin_actors


class SeedsSide:
    """A phase of an agent with S seeds, whose rings are full of the same noise.

    Attributes:
      phase: the phase.
      envs: the environments of all seeds.
      device_bytes: device memory in use between calls, by this process; None if JAX does not know it.
      temporary_bytes: peak temporary memory over both programs.
    """

    def __init__(self, config: RunConfig, phase: str) -> None:
        self.config, self.envs = config, Environments(config)
        self.phase = assembly.assemble(config, self.envs.vector_env.action_spec).phase(phase)
        place, keys = self.phase.placement, [Keys(each.seed) for each in configs_of(config)]
        self._state = place.stack([self.phase.init_state(each.agent) for each in keys], lanes=False)
        alone = dataclasses.replace(self.phase, placement=place.of_one_seed)
        self._ring = place.stack([noisy_ring(alone)] * len(keys), lanes=True)
        self._actor = begin_actors(place, self.phase.timestep, config.env.frame_stack, keys)
        self._flags = (place.put(np.ones(len(keys), bool), lanes=False),) if len(keys) > 1 else ()
        self._due = self.phase.whole_call()
        jitted = self.phase.jit(jax.default_backend())
        self._interact = jitted.interact.lower(*jitted.interact_arguments).compile()
        self._learn = jitted.learn.lower(*jitted.learn_arguments).compile()
        programs = (self._interact, self._learn)
        self.temporary_bytes = max(compiled.cost(each, platform="cpu").temporary_bytes for each in programs)
        jax.block_until_ready(self._ring)
        self.device_bytes = (jax.local_devices()[0].memory_stats() or {}).get("bytes_in_use")

    def time_learn(self, seconds: float) -> list[float]:
        """Times an update of all seeds, in milliseconds."""
        times = time_each(seconds, lambda: jax.block_until_ready(self._update()))
        return [ms / self.phase.updates_per_learn() for ms in times]

    def time_steps(self, seconds: float) -> float:
        """Times an agent step of all seeds with its updates, whose frames lie on the host, in milliseconds."""
        place, (vector_steps, calls) = self.phase.placement, whole_turn(self.phase)
        shape = (self.envs.vector_env.num_envs, *self.envs.vector_env.action_spec.shape)

        def cycle() -> None:
            for step in range(vector_steps):
                arrived = place.put(self.envs.timestep, lanes=True)
                action, self._actor, self._ring = self._interact(
                    self._state.params, self._actor, self._ring, arrived, *self._flags
                )
                if step == vector_steps - 1:  # the updates run while the environments step
                    for _ in range(calls):
                        self._update()
                self.envs.step(np.asarray(action).reshape(shape))

        mean = time_many(seconds, cycle, lambda: jax.block_until_ready(self._state))
        return mean / (vector_steps * self.config.num_envs)

    def _update(self) -> object:
        self._state, self._ring, info = self._learn(self._state, self._ring, self._due)
        return info
