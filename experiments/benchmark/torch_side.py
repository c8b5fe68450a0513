"""What the benchmark times of the PyTorch twin."""

import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmark.jax_side import HANDOVER_ROWS, PHASES, JaxSide
from experiments.benchmark.timing import time_each, time_many
from experiments.benchmark.torch_ring import TorchRing
from experiments.benchmark.torch_twin import make_twin
from seer_jax.seer import phases

_HANDOVER_BATCH = 32  # rows that are encoded together, as many as in this package's handover


class TorchSide:
    """The PyTorch twin of an agent in both phases, with rings of the same noise; a `measure.Side`."""

    def __init__(self, jax_side: JaxSide) -> None:
        self.config, self.envs, self.phases = jax_side.config, jax_side.envs, jax_side.phases
        self.stack_shape = self.phases[phases.FULL].actor.stack.shape
        self.twins = {
            name: make_twin(self.config, jax_side.states[name].params, frozen=name == phases.FROZEN) for name in PHASES
        }
        self.rings = {name: TorchRing(phase.ring_spec, jax_side.rings[name]) for name, phase in self.phases.items()}

    def time_act(self, seconds: float) -> list[float]:
        """Times encoding an observation and choosing an action, without the ring."""
        stack = torch.zeros(self.stack_shape, dtype=torch.uint8).permute(0, 3, 1, 2)
        return time_each(seconds, lambda: self.twins[phases.FULL].act(stack))

    def time_learn(self, phase: str, seconds: float) -> list[float]:
        """Times an update, with sampling of its batch."""
        times = time_each(seconds, lambda: self._learn(phase))
        return [ms / self.phases[phase].updates_per_learn for ms in times]

    def time_interact(self, phase: str, seconds: float) -> list[float]:
        """Times writing a row and choosing the actions of all environments."""
        stack = np.zeros(self.stack_shape, np.uint8)
        return time_each(seconds, lambda: self._interact(phase, stack))

    def time_steps(self, phase: str, seconds: float) -> list[float]:
        """Times agent steps in the environments with their updates, in whole cycles of the agent's updates."""
        steps_per_learn = self.phases[phase].steps_per_learn
        stack = np.zeros(self.stack_shape, np.uint8)
        channels = self.envs.timestep.frame.shape[-1]

        def cycle() -> None:
            nonlocal stack
            for _ in range(0, steps_per_learn, self.config.num_envs):
                stack = np.concatenate([stack[..., channels:], self.envs.timestep.frame], -1)
                self.envs.step(self._interact(phase, stack))
            self._learn(phase)

        return [time_many(seconds, cycle, lambda: None) / steps_per_learn]

    def time_handover(self) -> list[float]:
        """Times encoding stored frames, per row; the twin writes no snapshot."""
        ring, twin = self.rings[phases.FULL], self.twins[phases.FROZEN]
        latents = torch.zeros_like(self.rings[phases.FROZEN].observation)
        began = time.perf_counter()
        for rows in torch.split(torch.arange(ring.spec.stack, ring.spec.stack + HANDOVER_ROWS), _HANDOVER_BATCH):
            latents[rows] = twin.store(ring.observe(rows))
        return [1e3 * (time.perf_counter() - began) / HANDOVER_ROWS]

    def _interact(self, phase: str, stack: np.ndarray) -> np.ndarray:
        """Returns the actions of all environments for stacks of frames, `[E, H, W, k * C]`."""
        action, latents = self.twins[phase].act(torch.from_numpy(stack).permute(0, 3, 1, 2))
        self.rings[phase].add(self.envs.timestep, latents, action)
        return action

    def _learn(self, phase: str) -> None:
        for _ in range(self.phases[phase].updates_per_learn):
            self.twins[phase].update(self.rings[phase].sample(self.config.agent.batch_size))
