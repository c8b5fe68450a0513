"""The replay ring of the PyTorch twin."""

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmark.torch_layers import CPU
from seer_jax import replay
from seer_jax.envs.timestep import TimeStep


class TorchRing:
    """Rows of one environment in tensors, stored and sampled as PyTorch users do.

    It does not store where episodes end: what is timed is the indexing, which does not depend on it.

    Attributes:
      spec: static part of the ring.
      position: row that is written next.
      observation: `[T, H, W, C]` uint8 frames, or `[T, K, N, L]` latents.
      action: `[T, ...]`.
      reward: `[T]`.
      device: of all of them.
    """

    def __init__(self, spec: replay.RingSpec, ring: replay.Ring, device: torch.device = CPU) -> None:
        self.spec, self.position, self.device = spec, 0, device
        rows, _ = jax.device_get(replay.read(spec, ring, replay.oldest(spec, ring), replay.size(spec, ring)))
        # torch.tensor copies, so that rows can be overwritten; index 0 is the only environment.
        self.observation, self.action, self.reward = (
            torch.tensor(x[:, 0], device=device) for x in (rows.observation, rows.action, rows.reward)
        )

    def add(self, timestep: TimeStep, latents: torch.Tensor | None, action: np.ndarray) -> None:
        """Writes a row: the frame, or the latents of its stack if they are given, and action and reward."""
        self.observation[self.position] = torch.from_numpy(timestep.frame[0]) if latents is None else latents
        self.action[self.position] = torch.as_tensor(action[0])
        self.reward[self.position] = float(timestep.reward[0])
        self.position = (self.position + 1) % self.spec.num_steps

    def sample(self, batch_size: int) -> dict[str, torch.Tensor]:
        """Returns a batch of n-step transitions, with the fields of `replay.Batch`."""
        n, stack, device = self.spec.n_step, self.spec.stack, self.device
        start = torch.randint(max(stack, 1) - 1, self.spec.num_steps - n, (batch_size,), device=device)
        rewards = self.reward[start[:, None] + 1 + torch.arange(n, device=device)]
        return {
            "obs": self.observe(start),
            "action": self.action[start].long() if self.action.dtype == torch.int32 else self.action[start],
            "reward": rewards @ (self.spec.discount ** torch.arange(n, dtype=torch.float32, device=device)),
            "discount": torch.full((batch_size,), self.spec.discount**n, device=device),
            "next_obs": self.observe(start + n),
            "weight": torch.ones(batch_size, device=device),
        }

    def observe(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the stacks of frames, or the latents, that end in these rows, in the twin's layout."""
        batch, stack = len(rows), self.spec.stack
        if not stack:
            latents = self.observation[
                rows, torch.randint(self.observation.shape[1], (batch,), device=self.device)
            ]  # [B, N, L]
            return latents if latents.shape[1] > 1 else latents[:, 0]
        frames = self.observation[rows[:, None] + torch.arange(1 - stack, 1, device=self.device)]  # [B, k, H, W, C]
        if frames.shape[-1] == 1:
            return frames[..., 0]  # [B, k, H, W]
        return frames.permute(0, 2, 3, 1, 4).flatten(3)  # [B, H, W, k * C], to be cropped
