"""Eager PyTorch twins of both agents: the same architectures, batches and order of updates.

They are what the benchmark compares with, written as users of PyTorch write: modules, autograd, `torch.optim`. Weights
come from ours, so that losses and gradients can be compared before anything is timed.
"""

import copy
import itertools
import math
from collections.abc import Callable

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional

from seer_jax.agents import base


def _tensor(array) -> torch.Tensor:
    return torch.tensor(np.array(array))


def images(pixels: torch.Tensor) -> torch.Tensor:
    """Maps uint8 `[B, C, H, W]` to numbers between 0 and 1."""
    return pixels.float() / 255.0


class Residual(nn.Module):
    """A section of the IMPALA encoder."""

    def __init__(self, inputs: int, features: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(size, features, 3, padding=1) for size in (inputs, features, features, features, features)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convs[0](x)
        # Pads like XLA's SAME, which puts an odd row after the image.
        pads = [max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in (x.shape[3], x.shape[2])]
        x = functional.pad(x, [side for pad in pads for side in (pad // 2, pad - pad // 2)], value=-math.inf)
        x = functional.max_pool2d(x, 3, 2)
        for first, second in (self.convs[1:3], self.convs[3:5]):
            x = x + second(functional.relu(first(functional.relu(x))))
        return x


def make_encoder(name: str, channels: int) -> nn.Sequential:
    if name == "impala":
        widths = (channels, 16, 32, 32)
        return nn.Sequential(*(Residual(*pair) for pair in itertools.pairwise(widths)), nn.ReLU())
    stages = {"data_efficient": ((32, 5, 5), (64, 5, 5)), "sac_ae": ((32, 3, 2), (32, 3, 1), (32, 3, 1), (32, 3, 1))}
    layers = []
    for features, kernel, stride in stages[name]:
        layers += [nn.Conv2d(channels, features, kernel, stride), nn.ReLU()]
        channels = features
    return nn.Sequential(*layers)


def _load_encoder(encoder: nn.Module, params: base.Params, stages: list[str]) -> None:
    """Copies convolutions in the order of the stages."""
    ours = [layer for stage in stages for _, layer in sorted(params[stage]["params"].items())]
    theirs = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    for conv, layer in zip(theirs, ours, strict=True):
        conv.weight.data = _tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous()
        conv.bias.data = _tensor(layer["bias"])


def _load_dense(linear: nn.Linear, layer: dict, image_shape: tuple[int, int, int] | None = None) -> None:
    """Copies a dense layer; one that reads flattened images is turned from channels last to channels first."""
    kernel = _tensor(layer["kernel"])
    if image_shape is not None:
        kernel = kernel.reshape(*image_shape, -1).permute(2, 0, 1, 3).reshape(len(kernel), -1)
    linear.weight.data, linear.bias.data = kernel.T.contiguous(), _tensor(layer["bias"])


class NoisyLinear(nn.Module):
    def __init__(self, layer: dict):
        super().__init__()
        for name, value in layer.items():
            value = _tensor(value)
            self.register_parameter(name, nn.Parameter(value.T.contiguous() if "kernel" in name else value))

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        if noise is None:
            return functional.linear(x, self.kernel, self.bias)
        by_input, by_output = noise[: x.shape[1]], noise[x.shape[1] :]
        weight = self.kernel + self.kernel_std * torch.outer(by_output, by_input)
        return functional.linear(x, weight, self.bias + self.bias_std * by_output)


class RainbowNet(nn.Module):
    """Encoder and dueling C51 heads; reads images `[B, C, H, W]`, or latents as our ring stores them."""

    def __init__(self, config: ConfigDict, params: base.Params, boundary: tuple[int, int, int]):
        super().__init__()
        self.encoder = make_encoder(config.encoder.name, config.env.frame_stack)
        _load_encoder(self.encoder, params["encoder"], list(params["encoder"]))
        heads, self.atoms = params["heads"]["params"], config.agent.num_atoms
        # Latents are stored with channels last: then the first layers stay as they are.
        for name in ("value", "advantage"):
            setattr(self, f"{name}_hidden", NoisyLinear(heads[f"{name}_hidden"]))
            setattr(self, name, NoisyLinear(heads[name]))
        self.sizes = [math.prod(boundary) + config.agent.hidden, config.agent.hidden + self.atoms]
        self.sizes += [self.sizes[0], config.agent.hidden + self.advantage.bias.numel()]

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder(images(pixels)).permute(0, 2, 3, 1).flatten(1)

    def logits(self, latent: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        split = (None,) * 4 if noise is None else torch.split(noise, self.sizes)
        value = self.value(functional.relu(self.value_hidden(latent, split[0])), split[1])
        advantage = self.advantage(functional.relu(self.advantage_hidden(latent, split[2])), split[3])
        value, advantage = (x.view(len(x), -1, self.atoms) for x in (value, advantage))
        return value + advantage - advantage.mean(1, keepdim=True)


class Rainbow:
    """Updates like those of `seer_jax.agents.rainbow`.

    Args:
      config: a resolved configuration.
      params: of our agent.
      boundary: shape of the encoder's output.
      on_latents: whether batches hold latents and the encoder stays.
    """

    def __init__(self, config: ConfigDict, params: base.Params, boundary: tuple[int, int, int], *, on_latents: bool):
        cfg = config.agent
        self.config, self.on_latents = config, on_latents
        self.net = RainbowNet(config, params, boundary)
        self.target = copy.deepcopy(self.net).requires_grad_(False)
        self.net.encoder.requires_grad_(not on_latents)
        self.trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=cfg.learning_rate, eps=cfg.adam_eps)
        self.support = torch.linspace(-cfg.v_max, cfg.v_max, cfg.num_atoms)
        self.updates = 0

    def draw_noise(self, *networks: int) -> torch.Tensor:
        """Returns the noise of so many networks."""
        normal = torch.randn(*networks, sum(self.net.sizes))
        return normal.sign() * normal.abs().sqrt()

    def latent(self, net: RainbowNet, seen: torch.Tensor) -> torch.Tensor:
        return seen if self.on_latents else net.encode(seen)

    def loss(self, batch: dict[str, torch.Tensor], noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the weighted mean and each transition's cross-entropy."""
        logits = self.net.logits(self.latent(self.net, batch["obs"]), noise[0])
        rows = torch.arange(len(logits))
        log_p = functional.log_softmax(logits[rows, batch["action"]], -1)
        with torch.no_grad():
            selector = self.net.logits(self.latent(self.net, batch["next_obs"]), noise[1]).softmax(-1) @ self.support
            probs = self.target.logits(self.latent(self.target, batch["next_obs"]), noise[2]).softmax(-1)
            projected = self._project(probs[rows, selector.argmax(1)], batch["reward"], batch["discount"])
        losses = -(projected * log_p).sum(1)
        return (batch["weight"] * losses).mean(), losses

    def _project(self, probs: torch.Tensor, reward: torch.Tensor, discount: torch.Tensor) -> torch.Tensor:
        """Moves mass at `r + discount * z` to the two nearest atoms."""
        v_max, atoms = self.config.agent.v_max, len(self.support)
        position = (reward[:, None] + discount[:, None] * self.support).clamp(-v_max, v_max)
        position = (position + v_max) * (atoms - 1) / (2 * v_max)
        low = position.floor().clamp(max=atoms - 2)
        upper = probs * (position - low)
        projected = torch.zeros_like(probs)
        projected.scatter_add_(1, low.long(), probs - upper)
        return projected.scatter_add_(1, low.long() + 1, upper)

    def update(self, batch: dict[str, torch.Tensor]) -> None:
        loss, _ = self.loss(batch, self.draw_noise(3))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, self.config.agent.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.config.agent.target_update_every == 0:
            self.target.load_state_dict(self.net.state_dict())

    @torch.no_grad()
    def act(self, obs: torch.Tensor) -> tuple[np.ndarray, torch.Tensor | None]:
        """Returns actions, and once frozen the latents to store, of uint8 `[E, C, H, W]`."""
        latent = self.net.encode(obs)
        logits = self.net.logits(latent, self.draw_noise())
        return (logits.softmax(-1) @ self.support).argmax(1).numpy(), latent[:, None] if self.on_latents else None

    @torch.no_grad()
    def store(self, obs: torch.Tensor) -> torch.Tensor:
        """Returns latents to store, `[B, 1, 1, L]`, of uint8 `[B, C, H, W]`."""
        return self.net.encode(obs)[:, None, None]


class DenseNorm(nn.Module):
    def __init__(self, params: base.Params, boundary: tuple[int, int, int]):
        super().__init__()
        dense, norm = params["params"]["Dense_0"], params["params"]["LayerNorm_0"]
        self.dense = nn.Linear(*dense["kernel"].shape)
        _load_dense(self.dense, dense, boundary)
        self.norm = nn.LayerNorm(len(norm["scale"]))
        self.norm.weight.data, self.norm.bias.data = _tensor(norm["scale"]), _tensor(norm["bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.dense(x.flatten(1)))


def _mlp(params: base.Params, prefix: str) -> nn.Sequential:
    layers = []
    for i in (1, 2, 3):
        layer = params["params"][f"{prefix}{i}"]
        linear = nn.Linear(*layer["kernel"].shape)
        _load_dense(linear, layer)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class CurlNet(nn.Module):
    """All networks of CURL-SAC."""

    def __init__(self, config: ConfigDict, params: base.Params, boundary: tuple[int, int, int], channels: int):
        super().__init__()
        cfg = config.agent
        self.log_std = cfg.log_std_min, cfg.log_std_max
        self.encoder = make_encoder(config.encoder.name, channels)
        _load_encoder(self.encoder, params["encoder"], [name for name in params["encoder"] if name != "dense"])
        self.critic_dense = DenseNorm(params["encoder"]["dense"], boundary)
        self.actor_dense = DenseNorm(params["actor_encoder"]["dense"], boundary)
        self.q1, self.q2 = _mlp(params["critic"], "q1_"), _mlp(params["critic"], "q2_")
        self.policy = _mlp(params["actor"], "policy")
        self.log_temperature = nn.Parameter(_tensor(params["log_temperature"]))
        self.product = nn.Parameter(_tensor(params["contrast"]))

    def critic(self, latent: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = torch.cat([latent, action], 1)
        return torch.cat([self.q1(x), self.q2(x)], 1)

    def sample(self, latent: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns actions `[B, A]` and their log-densities `[B]`."""
        mean, raw = self.policy(latent).chunk(2, 1)
        low, high = self.log_std
        log_std = low + 0.5 * (high - low) * (raw.tanh() + 1)
        unsquashed = mean + log_std.exp() * noise
        log_prob = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1)
        correction = 2 * (math.log(2) - unsquashed - functional.softplus(-2 * unsquashed))
        return unsquashed.tanh(), log_prob - correction.sum(1)


class Curl:
    """Updates like those of `seer_jax.agents.curl_sac`; arguments are those of `Rainbow`."""

    def __init__(self, config: ConfigDict, params: base.Params, boundary: tuple[int, int, int], *, on_latents: bool):
        cfg = config.agent
        self.config, self.on_latents = config, on_latents
        self.net = CurlNet(config, params, boundary, 3 * config.env.frame_stack)
        self.target = copy.deepcopy(self.net).requires_grad_(False)
        net = self.net
        self.stages = [] if on_latents else [*net.encoder.parameters(), *net.critic_dense.parameters()]
        self.critic_parameters = [*self.stages, *net.q1.parameters(), *net.q2.parameters()]
        self.actor_parameters = list(net.policy.parameters())
        if not on_latents:
            self.actor_parameters += net.actor_dense.parameters()
        self.contrast_parameters = [*self.stages, net.product]
        rate = cfg.learning_rate
        self.critic_optimizer = torch.optim.Adam(self.critic_parameters, lr=rate)
        self.actor_optimizer = torch.optim.Adam(self.actor_parameters, lr=rate)
        self.contrast_optimizer = torch.optim.Adam(self.contrast_parameters, lr=rate)
        self.temperature_optimizer = torch.optim.Adam(
            [net.log_temperature], lr=cfg.temperature_learning_rate, betas=(cfg.temperature_adam_b1, 0.999)
        )
        self.updates = 0

    def see(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cuts the crops of an update; latents are what they are."""
        if self.on_latents:
            return batch
        size = self.config.env.crop_size
        return batch | {
            "obs": random_crop(batch["obs"], size),
            "next_obs": random_crop(batch["next_obs"], size),
            "positive": random_crop(batch["obs"], size),
        }

    def features(self, net: CurlNet, seen: torch.Tensor) -> torch.Tensor:
        return seen if self.on_latents else net.encoder(images(seen))

    def critic_latent(self, net: CurlNet, features: torch.Tensor) -> torch.Tensor:
        return features[:, 0] if self.on_latents else net.critic_dense(features)

    def actor_latent(self, net: CurlNet, features: torch.Tensor) -> torch.Tensor:
        return features[:, 1] if self.on_latents else net.actor_dense(features.detach())

    def critic_losses(
        self, seen: dict[str, torch.Tensor], noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the weighted Q-loss and the contrastive loss, which latents have none of."""
        net, target = self.net, self.target
        latent = self.critic_latent(net, self.features(net, seen["obs"]))
        with torch.no_grad():
            action, log_prob = net.sample(self.actor_latent(net, self.features(net, seen["next_obs"])), noise)
            next_latent = self.critic_latent(target, self.features(target, seen["next_obs"]))
            next_v = target.critic(next_latent, action).min(1).values - net.log_temperature.exp() * log_prob
            q_target = seen["reward"] + seen["discount"] * next_v
        q = net.critic(latent, seen["action"])
        q_loss = (seen["weight"] * ((q - q_target[:, None]) ** 2).sum(1)).mean()
        if self.on_latents:
            return q_loss, None
        with torch.no_grad():
            positive = self.critic_latent(target, self.features(target, seen["positive"]))
        logits = latent @ net.product @ positive.T
        return q_loss, functional.cross_entropy(logits, torch.arange(len(logits)))

    def actor_losses(self, seen: dict[str, torch.Tensor], noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the losses of the policy and of the temperature."""
        net = self.net
        with torch.no_grad():
            features = self.features(net, seen["obs"])
            critic_latent = self.critic_latent(net, features)
        action, log_prob = net.sample(self.actor_latent(net, features), noise)
        temperature = net.log_temperature.exp()
        loss = (temperature.detach() * log_prob - net.critic(critic_latent, action).min(1).values).mean()
        return loss, (temperature * (-log_prob.detach() + action.shape[1])).mean()

    def update(self, batch: dict[str, torch.Tensor]) -> None:
        cfg, seen = self.config.agent, self.see(batch)
        q_loss, contrast = self.critic_losses(seen, torch.randn_like(seen["action"]))
        gradients = torch.autograd.grad(q_loss, self.critic_parameters, retain_graph=contrast is not None)
        if contrast is not None:
            contrast_gradients = torch.autograd.grad(contrast, self.contrast_parameters)
        _step(self.critic_optimizer, self.critic_parameters, gradients)
        if self.updates % cfg.actor_update_every == 0:
            actor_loss, temperature_loss = self.actor_losses(seen, torch.randn_like(seen["action"]))
            _step(self.actor_optimizer, self.actor_parameters, torch.autograd.grad(actor_loss, self.actor_parameters))
            (gradient,) = torch.autograd.grad(temperature_loss, [self.net.log_temperature])
            _step(self.temperature_optimizer, [self.net.log_temperature], [gradient])
        if contrast is not None:
            _step(self.contrast_optimizer, self.contrast_parameters, contrast_gradients)
        if self.updates % cfg.target_update_every == 0:
            self._move_targets()
        self.updates += 1

    @torch.no_grad()
    def _move_targets(self) -> None:
        cfg = self.config.agent
        moved = {"q1": cfg.critic_tau, "q2": cfg.critic_tau}
        if not self.on_latents:
            moved |= {"encoder": cfg.encoder_tau, "critic_dense": cfg.encoder_tau}
        for name, tau in moved.items():
            for online, target in zip(
                getattr(self.net, name).parameters(), getattr(self.target, name).parameters(), strict=True
            ):
                target.lerp_(online, tau)

    @torch.no_grad()
    def act(self, obs: torch.Tensor) -> tuple[np.ndarray, torch.Tensor | None]:
        """Returns actions, and once frozen the latents to store, of uint8 `[E, C, H, W]`."""
        size, net = self.config.env.crop_size, self.net
        at = (obs.shape[-1] - size) // 2
        views = obs[..., at : at + size, at : at + size]
        if self.on_latents:
            last = obs.permute(0, 2, 3, 1)
            views = torch.cat([views, *(random_crop(last, size) for _ in range(self.config.seer.num_copies))])
        features = net.encoder(images(views))
        actor = net.actor_dense(features)
        stored = torch.stack([net.critic_dense(features), actor], 1)[len(obs) :] if self.on_latents else None
        action, _ = net.sample(actor[: len(obs)], torch.randn(len(obs), net.policy[-1].out_features // 2))
        return action.numpy(), stored

    @torch.no_grad()
    def store(self, obs: torch.Tensor) -> torch.Tensor:
        """Returns latents to store, `[B, K, 2, L]`, of uint8 `[B, H, W, C]`."""
        net, copies = self.net, self.config.seer.num_copies
        views = torch.stack([random_crop(obs, self.config.env.crop_size) for _ in range(copies)], 1)
        features = net.encoder(images(views.flatten(0, 1)))
        latents = torch.stack([net.critic_dense(features), net.actor_dense(features)], 1)
        return latents.unflatten(0, (len(obs), copies))


def _step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], gradients) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def random_crop(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Maps `[B, H, W, C]` to random `[B, C, size, size]` crops."""
    batch, height, width, _ = pixels.shape
    top, left = torch.randint(0, height - size + 1, (batch,)), torch.randint(0, width - size + 1, (batch,))
    return pixels.unfold(1, size, 1).unfold(2, size, 1)[torch.arange(batch), top, left]


TWINS: dict[str, Callable] = {"rainbow": Rainbow, "curl_sac": Curl}


def make_twin(config: ConfigDict, params: base.Params, boundary: tuple[int, int, int], *, on_latents: bool):
    """Returns the twin of an agent with the parameters that it has now."""
    return TWINS[config.agent.name](config, jax.device_get(params), boundary, on_latents=on_latents)
