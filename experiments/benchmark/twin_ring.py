"""The ring of the PyTorch twin."""

import jax
import numpy as np
import torch

from seer_jax import replay


class TwinRing:
    """Rows of one environment in tensors, as users of PyTorch keep and sample them.

    Episodes do not end in it: what is timed is the indexing, which is the same.
    """

    def __init__(self, spec: replay.RingSpec, ring: replay.Ring):
        self.spec, self.at = spec, 0
        rows = jax.device_get(ring.rows)
        # Writable copies; one environment.
        self.observation, self.action, self.reward = (
            torch.tensor(x[:, 0]) for x in (rows.observation, rows.action, rows.reward)
        )

    def add(self, timestep, latents: torch.Tensor | None, action: np.ndarray) -> None:
        """Writes a frame, or the latents of its stack."""
        self.observation[self.at] = torch.from_numpy(timestep.frame[0]) if latents is None else latents
        self.action[self.at] = torch.as_tensor(action[0])
        self.reward[self.at] = float(timestep.reward[0])
        self.at = (self.at + 1) % self.spec.num_steps

    def sample(self, batch_size: int) -> dict[str, torch.Tensor]:
        n, stack = self.spec.n_step, self.spec.stack
        start = torch.randint(max(stack, 1) - 1, self.spec.num_steps - n, (batch_size,))
        rewards = self.reward[start[:, None] + 1 + torch.arange(n)]
        return {
            "obs": self.observe(start),
            "action": self.action[start].long() if self.action.dtype == torch.int32 else self.action[start],
            "reward": rewards @ (self.spec.discount ** torch.arange(n, dtype=torch.float32)),
            "discount": torch.full((batch_size,), self.spec.discount**n),
            "next_obs": self.observe(start + n),
            "weight": torch.ones(batch_size),
        }

    def observe(self, time_index: torch.Tensor) -> torch.Tensor:
        """Returns stacks or latents as the twin takes them."""
        batch, stack = len(time_index), self.spec.stack
        if not stack:
            latents = self.observation[time_index, torch.randint(self.observation.shape[1], (batch,))]
            return latents if latents.shape[1] > 1 else latents[:, 0]
        frames = self.observation[time_index[:, None] + torch.arange(1 - stack, 1)]  # [B, k, H, W, C]
        if frames.shape[-1] == 1:
            return frames[..., 0]  # [B, k, H, W]
        return frames.permute(0, 2, 3, 1, 4).flatten(3)  # [B, H, W, k * C], to be cropped
