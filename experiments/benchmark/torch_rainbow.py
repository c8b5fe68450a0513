"""The PyTorch twin of Rainbow."""

import copy
import math

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from experiments.benchmark.torch_layers import CPU, NoisyLinear, make_adam, make_encoder, scale_pixels
from seer_jax.agents import base, rainbow
from seer_jax.config import RunConfig
from seer_jax.seer import pace


class RainbowNet(nn.Module):
    """Encoder and dueling C51 heads.

    Attributes:
      noise_sizes: entries of noise of each noisy layer: value and advantage, hidden and output.
    """

    def __init__(self, config: RunConfig, params: base.Params) -> None:
        super().__init__()
        self.encoder = make_encoder(
            config.encoder.name, config.env.frame_stack, params["encoder"], list(params["encoder"])
        )
        # Latents are flattened with channels last, as the agent stores them, so the kernels need no reordering.
        heads = params["heads"]["params"]
        self.value_hidden, self.value = NoisyLinear(heads["value_hidden"]), NoisyLinear(heads["value"])
        self.advantage_hidden, self.advantage = NoisyLinear(heads["advantage_hidden"]), NoisyLinear(heads["advantage"])
        self.atoms = self.value.bias.numel()
        layers = (self.value_hidden, self.value, self.advantage_hidden, self.advantage)
        self.noise_sizes = [sum(layer.kernel.shape) for layer in layers]

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps uint8 `[B, C, H, W]` to latents `[B, L]`."""
        return self.encoder(scale_pixels(pixels)).permute(0, 2, 3, 1).flatten(1)

    def logits(self, latent: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """Maps latents `[B, L]` to `[B, num_actions, num_atoms]`; `noise` is flat, or None for the mean weights."""
        split = (None,) * 4 if noise is None else torch.split(noise, self.noise_sizes)
        value = self.value(functional.relu(self.value_hidden(latent, split[0])), split[1])
        advantage = self.advantage(functional.relu(self.advantage_hidden(latent, split[2])), split[3])
        value, advantage = (x.view(len(x), -1, self.atoms) for x in (value, advantage))
        return value + advantage - advantage.mean(1, keepdim=True)


class Rainbow:
    """Acts and updates as `seer_jax.agents.rainbow` does; `make_twin` documents the arguments.

    Attributes:
      net: the online network.
      target: the target network.
      trained: parameters that updates change.
    """

    def __init__(self, config: RunConfig, params: base.Params, *, frozen: bool, device: torch.device = CPU) -> None:
        cfg = config.agent
        assert isinstance(cfg, rainbow.RainbowConfig)
        self.agent, self.frozen = cfg, frozen
        self.learn_start = config.learn_start
        self.replay_ratio = pace.replay_ratio(config.seer.replay_ratio if frozen else config.replay_ratio)
        self.net = RainbowNet(config, params).to(device)
        self.target = copy.deepcopy(self.net).requires_grad_(False)
        self.net.encoder.requires_grad_(not frozen)
        self.trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = make_adam(self.trained, lr=cfg.learning_rate, eps=cfg.adam_eps)
        self.support = torch.linspace(-cfg.v_max, cfg.v_max, cfg.num_atoms, device=device)
        self.updates = 0

    def draw_noise(self, *networks: int) -> torch.Tensor:
        """Returns the noise of all layers, `[*networks, sum(noise_sizes)]`."""
        normal = torch.randn(*networks, sum(self.net.noise_sizes), device=self.support.device)
        return normal.sign() * normal.abs().sqrt()

    def loss(self, batch: dict[str, torch.Tensor], noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the weighted mean of the cross-entropies, and the cross-entropy of each transition `[B]`.

        Args:
          batch: fields of `replay.Batch`; observations are uint8 `[B, C, H, W]` or latents `[B, L]`.
          noise: `[2, sum(noise_sizes)]`, of the online network, which also selects, and of the target network.
        """
        logits = self.net.logits(self._latent(self.net, batch["obs"]), noise[0])
        rows = torch.arange(len(logits), device=logits.device)
        log_p = functional.log_softmax(logits[rows, batch["action"]], -1)
        with torch.no_grad():
            selector_q = self.net.logits(self._latent(self.net, batch["next_obs"]), noise[0]).softmax(-1) @ self.support
            probs = self.target.logits(self._latent(self.target, batch["next_obs"]), noise[1]).softmax(-1)
            projected = self._project(probs[rows, selector_q.argmax(1)], batch["reward"], batch["discount"])
        losses = -(projected * log_p).sum(1)
        return (batch["weight"] * losses).mean(), losses

    def update(self, batch: dict[str, torch.Tensor]) -> None:
        """Makes one update; the batch is that of `loss`."""
        loss, _ = self.loss(batch, self.draw_noise(2))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, self.agent.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        before, now = (self.learn_start + math.ceil(i / self.replay_ratio) for i in (self.updates - 1, self.updates))
        if now // self.agent.target_update_every > before // self.agent.target_update_every:
            self.target.load_state_dict(self.net.state_dict())

    def compile(self) -> None:
        """Makes `torch.compile` compile the loss at its first call."""
        self.loss = torch.compile(self.loss)

    @torch.no_grad()
    def act(self, obs: torch.Tensor) -> tuple[np.ndarray, torch.Tensor | None]:
        """Returns actions `[E]` and, in the frozen phase, the latents to store, for uint8 `[E, C, H, W]`."""
        latent = self.net.encode(obs)
        logits = self.net.logits(latent, self.draw_noise())
        return (logits.softmax(-1) @ self.support).argmax(1).cpu().numpy(), latent[:, None] if self.frozen else None

    @torch.no_grad()
    def store(self, obs: torch.Tensor) -> torch.Tensor:
        """Returns the latents to store, `[B, 1, 1, L]`, of uint8 `[B, C, H, W]`."""
        return self.net.encode(obs)[:, None, None]

    def _latent(self, net: RainbowNet, obs: torch.Tensor) -> torch.Tensor:
        return obs if self.frozen else net.encode(obs)

    def _project(self, probs: torch.Tensor, reward: torch.Tensor, discount: torch.Tensor) -> torch.Tensor:
        """Returns the distribution of `reward + discount * support` on the support (Bellemare et al. 2017, eq. 7).

        Args:
          probs: `[B, num_atoms]`.
          reward: `[B]`.
          discount: `[B]`.
        """
        v_max, atoms = self.agent.v_max, len(self.support)
        position = (reward[:, None] + discount[:, None] * self.support).clamp(-v_max, v_max)
        position = (position + v_max) * (atoms - 1) / (2 * v_max)
        low = position.floor().clamp(max=atoms - 2)
        upper = probs * (position - low)
        projected = torch.zeros_like(probs)
        projected.scatter_add_(1, low.long(), probs - upper)
        return projected.scatter_add_(1, low.long() + 1, upper)
