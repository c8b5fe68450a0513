"""The PyTorch twin of CURL-SAC."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch._functorch import config as functorch_config  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from experiments.benchmark.torch_layers import (
    CPU,
    DenseNorm,
    make_adam,
    make_encoder,
    make_mlp,
    random_crop,
    scale_pixels,
    to_tensor,
)
from seer_jax.agents import base, curl
from seer_jax.config import RunConfig


class CurlNet(nn.Module):
    """All networks of CURL-SAC.

    Attributes:
      action_size: A.
    """

    def __init__(self, config: RunConfig, params: base.Params, log_std_bounds: tuple[float, float]) -> None:
        super().__init__()
        self.log_std_min, self.log_std_max = log_std_bounds
        stages = [name for name in params["encoder"] if name != "dense"]
        self.encoder = make_encoder(config.encoder.name, 3 * config.env.frame_stack, params["encoder"], stages)
        boundary = curl.make_networks(config, action_size=1).boundary_shape
        self.critic_dense = DenseNorm(params["encoder"]["dense"], boundary)
        self.actor_dense = DenseNorm(params["actor_encoder"]["dense"], boundary)
        self.q1, self.q2 = make_mlp(params["critic"], "q1_"), make_mlp(params["critic"], "q2_")
        self.policy = make_mlp(params["actor"], "policy")
        self.action_size = len(params["actor"]["params"]["policy3"]["bias"]) // 2
        self.log_temperature = nn.Parameter(to_tensor(params["log_temperature"]))
        self.product = nn.Parameter(to_tensor(params["contrast"]))  # of the bilinear contrastive logits

    def critic(self, latent: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Returns both Q-values, `[B, 2]`, of latents `[B, L]` and actions `[B, A]`."""
        x = torch.cat([latent, action], 1)
        return torch.cat([self.q1(x), self.q2(x)], 1)

    def sample(self, latent: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns actions `[B, A]` and their log-densities `[B]`, for standard normal noise `[B, A]`."""
        mean, raw = self.policy(latent).chunk(2, 1)
        log_std = self.log_std_min + 0.5 * (self.log_std_max - self.log_std_min) * (raw.tanh() + 1)
        unsquashed = mean + log_std.exp() * noise
        log_prob = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1)
        correction = 2 * (math.log(2) - unsquashed - functional.softplus(-2 * unsquashed))  # log(1 - tanh(x)^2)
        return unsquashed.tanh(), log_prob - correction.sum(1)


class Curl:
    """Acts and updates as `seer_jax.agents.curl` does; `make_twin` documents the arguments.

    Attributes:
      net: the online networks.
      target: the target networks.
      encoder_parameters: that both the Q-loss and the contrastive loss train; none in the frozen phase.
      critic_parameters: that the Q-loss trains, those of the encoder leading.
      actor_parameters: that the policy's loss trains.
      contrast_parameters: that the contrastive loss trains, those of the encoder leading.
      critic_optimizer: of the Q-loss; the contrastive loss steps the encoder with it, too.
    """

    def __init__(self, config: RunConfig, params: base.Params, *, frozen: bool, device: torch.device = CPU) -> None:
        cfg = config.agent
        assert isinstance(cfg, curl.CurlConfig)
        self.agent, self.frozen = cfg, frozen
        self.crop_size, self.num_copies = config.env.crop_size, config.seer.num_copies
        self.net = net = CurlNet(config, params, (cfg.log_std_min, cfg.log_std_max)).to(device)
        self.target = copy.deepcopy(self.net).requires_grad_(False)
        self.encoder_parameters = [] if frozen else [*net.encoder.parameters(), *net.critic_dense.parameters()]
        self.critic_parameters = [*self.encoder_parameters, *net.q1.parameters(), *net.q2.parameters()]
        self.actor_parameters = list(net.policy.parameters())
        if not frozen:
            self.actor_parameters += net.actor_dense.parameters()
        self.contrast_parameters = [*self.encoder_parameters, net.product]
        rate = cfg.learning_rate
        self.critic_optimizer = make_adam(self.critic_parameters, lr=rate)
        self.actor_optimizer = make_adam(self.actor_parameters, lr=rate)
        self.contrast_optimizer = make_adam(self.contrast_parameters, lr=rate)
        self.temperature_optimizer = make_adam(
            [net.log_temperature], lr=cfg.temperature_learning_rate, betas=(cfg.temperature_adam_b1, 0.999)
        )
        self.updates = 0

    def critic_losses(
        self, batch: dict[str, torch.Tensor], noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the weighted Q-loss and the contrastive loss, None for a batch of latents.

        Args:
          batch: fields of `replay.Batch`; observations are latents `[B, 2, L]`, or crops `[B, C, size, size]`, then
            with a second crop `positive` of each observation.
          noise: `[B, A]` standard normal, of the policy at the next observations.
        """
        net, target = self.net, self.target
        latent = self._critic_latent(net, self._features(net, batch["obs"]))
        with torch.no_grad():
            action, log_prob = net.sample(self._actor_latent(net, self._features(net, batch["next_obs"])), noise)
            next_latent = self._critic_latent(target, self._features(target, batch["next_obs"]))
            next_v = target.critic(next_latent, action).min(1).values - net.log_temperature.exp() * log_prob
            q_target = batch["reward"] + batch["discount"] * next_v
        q = net.critic(latent, batch["action"])
        q_loss = (batch["weight"] * ((q - q_target[:, None]) ** 2).sum(1)).mean()
        if self.frozen:
            return q_loss, None
        with torch.no_grad():
            positive = self._critic_latent(target, self._features(target, batch["positive"]))
        logits = latent @ net.product @ positive.T
        return q_loss, functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))

    def actor_losses(self, batch: dict[str, torch.Tensor], noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the losses of the policy and of the temperature; arguments are those of `critic_losses`."""
        net = self.net
        with torch.no_grad():
            features = self._features(net, batch["obs"])
            critic_latent = self._critic_latent(net, features)
        action, log_prob = net.sample(self._actor_latent(net, features), noise)
        temperature = net.log_temperature.exp()
        loss = (temperature.detach() * log_prob - net.critic(critic_latent, action).min(1).values).mean()
        return loss, (temperature * (-log_prob.detach() + action.shape[1])).mean()

    def update(self, batch: dict[str, torch.Tensor]) -> None:
        """Makes one update; observations of the batch are uint8 `[B, H, W, C]`, or latents."""
        cfg, batch = self.agent, self._augment(batch)
        q_loss, contrast = self.critic_losses(batch, torch.randn_like(batch["action"]))
        gradients = torch.autograd.grad(q_loss, self.critic_parameters, retain_graph=contrast is not None)
        contrast_gradients = None if contrast is None else torch.autograd.grad(contrast, self.contrast_parameters)
        self.step_critic(gradients)
        if self.updates % cfg.updates_per_actor_update == 0:
            actor_loss, temperature_loss = self.actor_losses(batch, torch.randn_like(batch["action"]))
            # Both before either step: compiled, the losses share one graph.
            gradients = torch.autograd.grad(actor_loss, self.actor_parameters, retain_graph=True)
            temperature_gradients = torch.autograd.grad(temperature_loss, [self.net.log_temperature])
            _step(self.actor_optimizer, self.actor_parameters, gradients)
            _step(self.temperature_optimizer, [self.net.log_temperature], temperature_gradients)
        if contrast_gradients is not None:
            self.step_contrast(contrast_gradients)
        if self.updates % cfg.updates_per_target_update == 0:
            self._update_targets()
        self.updates += 1

    def step_critic(self, gradients: Sequence[torch.Tensor]) -> None:
        """Steps `critic_parameters` with gradients of the Q-loss."""
        _step(self.critic_optimizer, self.critic_parameters, gradients)

    def step_contrast(self, gradients: Sequence[torch.Tensor]) -> None:
        """Steps `contrast_parameters` with gradients of the contrastive loss, the encoder's with both optimizers."""
        if self.agent.double_contrastive_step:
            _step(self.critic_optimizer, self.encoder_parameters, gradients[: len(self.encoder_parameters)])
        _step(self.contrast_optimizer, self.contrast_parameters, gradients)

    def compile(self) -> None:
        """Makes `torch.compile` compile the losses at their first call."""
        functorch_config.donated_buffer = False  # which could not be walked twice
        self.critic_losses, self.actor_losses = torch.compile(self.critic_losses), torch.compile(self.actor_losses)

    @torch.no_grad()
    def act(self, obs: torch.Tensor) -> tuple[np.ndarray, torch.Tensor | None]:
        """Returns actions `[E, A]` and, in the frozen phase, the latents to store, for uint8 `[E, C, H, W]`."""
        size, net = self.crop_size, self.net
        margin = (obs.shape[-1] - size) // 2
        views = obs[..., margin : margin + size, margin : margin + size]
        if self.frozen:
            channels_last = obs.permute(0, 2, 3, 1)
            views = torch.cat([views, *(random_crop(channels_last, size) for _ in range(self.num_copies))])
        features = net.encoder(scale_pixels(views))
        actor = net.actor_dense(features)
        stored = torch.stack([net.critic_dense(features), actor], 1)[len(obs) :] if self.frozen else None
        action, _ = net.sample(actor[: len(obs)], torch.randn(len(obs), net.action_size, device=obs.device))
        return action.cpu().numpy(), stored

    @torch.no_grad()
    def store(self, obs: torch.Tensor) -> torch.Tensor:
        """Returns the latents to store, `[B, K, 2, L]`, of uint8 `[B, H, W, C]`."""
        net, copies = self.net, self.num_copies
        views = torch.stack([random_crop(obs, self.crop_size) for _ in range(copies)], 1)
        features = net.encoder(scale_pixels(views.flatten(0, 1)))
        latents = torch.stack([net.critic_dense(features), net.actor_dense(features)], 1)
        return latents.unflatten(0, (len(obs), copies))

    def _augment(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the batch with random crops of its images; latents stay as they are."""
        if self.frozen:
            return batch
        size = self.crop_size
        return batch | {
            "obs": random_crop(batch["obs"], size),
            "next_obs": random_crop(batch["next_obs"], size),
            "positive": random_crop(batch["obs"], size),
        }

    def _features(self, net: CurlNet, obs: torch.Tensor) -> torch.Tensor:
        return obs if self.frozen else net.encoder(scale_pixels(obs))

    def _critic_latent(self, net: CurlNet, features: torch.Tensor) -> torch.Tensor:
        return features[:, 0] if self.frozen else net.critic_dense(features)

    def _actor_latent(self, net: CurlNet, features: torch.Tensor) -> torch.Tensor:
        return features[:, 1] if self.frozen else net.actor_dense(features.detach())

    @torch.no_grad()
    def _update_targets(self) -> None:
        cfg, net, target = self.agent, self.net, self.target
        pairs: list[tuple[nn.Module, nn.Module, float]] = [
            (net.q1, target.q1, cfg.critic_tau),
            (net.q2, target.q2, cfg.critic_tau),
        ]
        if not self.frozen:
            pairs.append((net.encoder, target.encoder, cfg.encoder_tau))
            pairs.append((net.critic_dense, target.critic_dense, cfg.encoder_tau))
        for online_module, target_module, tau in pairs:
            parameters = zip(online_module.parameters(), target_module.parameters(), strict=True)
            for online_parameter, target_parameter in parameters:
                target_parameter.lerp_(online_parameter, tau)


def _step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], gradients: Sequence[torch.Tensor]
) -> None:
    optimizer.zero_grad()  # it leaves parameters without gradient alone
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
