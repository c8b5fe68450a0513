"""What the benchmark times of the PyTorch twin."""

import functools
import time
from collections.abc import Callable

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmark.jax_side import HANDOVER_ROWS, PHASES, AgentArrays, whole_turn
from experiments.benchmark.timing import time_each, time_many
from experiments.benchmark.torch_layers import CPU
from experiments.benchmark.torch_ring import TorchRing
from experiments.benchmark.torch_twin import make_twin
from seer_jax.seer import phases

_HANDOVER_BATCH = 32  # rows that are encoded together, as many as in this package's handover


def modes(backend: str) -> tuple[str, ...]:
    """Returns how a twin can learn where JAX uses this backend."""
    return ("eager", "compiled", "cuda_graph") if backend == "gpu" else ("eager", "compiled")


class TorchSide:
    """The PyTorch twin of an agent in both phases, with rings of the same noise; a `measure.Side`.

    Args:
      agent: whose weights and rings are copied.
      device: of the twin.
      mode: how it learns, one of `modes`.
    """

    def __init__(self, agent: AgentArrays, device: torch.device = CPU, mode: str = "eager") -> None:
        self.device = device
        self.config, self.envs, self.phases = agent.config, agent.envs, agent.phases
        self.stack_shape = self.phases[phases.FULL].actor.stack.shape
        self.twins = {
            name: make_twin(self.config, agent.states[name].params, frozen=name == phases.FROZEN, device=device)
            for name in PHASES
        }
        self.rings = {
            name: TorchRing(phase.ring_spec, agent.rings[name], device) for name, phase in self.phases.items()
        }
        if mode == "compiled":
            for twin in self.twins.values():
                twin.compile()
        updates = {name: functools.partial(self._update, name) for name in PHASES}
        self._learns = updates if mode != "cuda_graph" else {name: _as_graph(call) for name, call in updates.items()}

    def time_act(self, seconds: float) -> list[float]:
        """Times encoding an observation and choosing an action, without the ring."""
        stack = torch.zeros(self.stack_shape, dtype=torch.uint8, device=self.device).permute(0, 3, 1, 2)
        return time_each(seconds, lambda: self.twins[phases.FULL].act(stack))

    def time_learn(self, phase: str, seconds: float) -> list[float]:
        """Times an update, with sampling of its batch."""
        times = time_each(seconds, lambda: (self._learns[phase](), self._wait()))
        return [ms / self.phases[phase].updates_per_learn() for ms in times]

    def time_interact(self, phase: str, seconds: float) -> list[float]:
        """Times writing a row and choosing the actions of all environments."""
        stack = np.zeros(self.stack_shape, np.uint8)
        return time_each(seconds, lambda: self._interact(phase, stack))

    def time_steps(self, phase: str, seconds: float) -> list[float]:
        """Times agent steps in the environments with their updates, in whole cycles of the agent's updates."""
        vector_steps, calls = whole_turn(self.phases[phase])
        stack = np.zeros(self.stack_shape, np.uint8)
        channels = self.envs.timestep.frame.shape[-1]

        def cycle() -> None:
            nonlocal stack
            for _ in range(vector_steps):
                stack = np.concatenate([stack[..., channels:], self.envs.timestep.frame], -1)
                self.envs.step(self._interact(phase, stack))
            for _ in range(calls):
                self._learns[phase]()

        return [time_many(seconds, cycle, self._wait) / (vector_steps * self.config.num_envs)]

    def time_handover(self) -> list[float]:
        """Times encoding stored frames, per row; the twin writes no snapshot."""
        ring, twin = self.rings[phases.FULL], self.twins[phases.FROZEN]
        latents = torch.zeros_like(self.rings[phases.FROZEN].observation)
        began = time.perf_counter()
        all_rows = torch.arange(ring.spec.stack, ring.spec.stack + HANDOVER_ROWS, device=self.device)
        for rows in torch.split(all_rows, _HANDOVER_BATCH):
            latents[rows] = twin.store(ring.observe(rows))
        return [1e3 * (time.perf_counter() - began) / HANDOVER_ROWS]

    def _interact(self, phase: str, stack: np.ndarray) -> np.ndarray:
        """Returns the actions of all environments for stacks of frames, `[E, H, W, k * C]`."""
        action, latents = self.twins[phase].act(torch.from_numpy(stack).to(self.device).permute(0, 3, 1, 2))
        self.rings[phase].add(self.envs.timestep, latents, action)
        return action

    def _wait(self) -> None:
        """Returns when the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _update(self, phase: str) -> None:
        """Makes the updates of one call of `learn`."""
        for _ in range(self.phases[phase].updates_per_learn()):
            self.twins[phase].update(self.rings[phase].sample(self.config.agent.batch_size))


def _as_graph(call: Callable[[], None]) -> Callable[[], None]:
    """Returns a function that does on a GPU what `call` did there once, in one launch."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # allocates what later calls use, as PyTorch asks for before a capture
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
