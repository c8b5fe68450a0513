"""Checks that an agent and its PyTorch twin compute the same losses and gradients.

Both get the same weights, batch and noise. The agent's gradients are read from Adam's first moments after one update,
which are `1 - b1` = 0.1 of the gradients.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict

from experiments.benchmark.torch_curl import Curl
from experiments.benchmark.torch_rainbow import Rainbow
from experiments.benchmark.torch_twin import boundary_shape
from seer_jax import replay
from seer_jax.agents import base
from seer_jax.networks import heads

_FIRST_MOMENT = 0.1

Arrays = Iterable[Any]  # of JAX, NumPy or PyTorch
Pairs = dict[str, tuple[Arrays, Arrays]]  # the agent's and the twin's losses or gradients, by name


def differences(
    config: ConfigDict, agent: base.Agent, state: base.TrainState, batch: replay.Batch, *, on_latents: bool
) -> dict[str, float]:
    """Returns the largest absolute differences of losses and gradients, relative to the agent's largest entry.

    Args:
      config: a resolved configuration.
      agent: of this package.
      state: of the agent, before any update.
      batch: that both learn from.
      on_latents: whether the batch holds latents.
    """
    compare = {"rainbow": _compare_rainbow, "curl_sac": _compare_curl}[config.agent.name]
    pairs = compare(config, agent, state, batch, on_latents=on_latents)
    return {name: _difference(agents, twins) for name, (agents, twins) in pairs.items()}


def _difference(agents: Arrays, twins: Arrays) -> float:
    agents, twins = ([np.asarray(x, np.float64) for x in arrays] for arrays in (agents, twins))
    scale = max(np.abs(x).max() for x in agents)
    return float(max(np.abs(x - y).max() for x, y in zip(agents, twins, strict=True)) / scale)


def _compare_rainbow(
    config: ConfigDict, agent: base.Agent, state: base.TrainState, batch: replay.Batch, *, on_latents: bool
) -> Pairs:
    (update,) = agent.latent_updates if on_latents else agent.updates
    new_state, losses, _ = jax.jit(update)(state, batch)
    boundary = boundary_shape(config)
    twin = Rainbow(config, jax.device_get(state.params), boundary, on_latents=on_latents)
    _, key = base.update_keys(state)
    noise = jnp.stack([heads.draw_noise(k, (sum(twin.net.noise_sizes),)) for k in jax.random.split(key, 3)])
    inputs = _to_torch(vars(batch))
    if on_latents:
        inputs |= {"obs": inputs["obs"][:, 0], "next_obs": inputs["next_obs"][:, 0]}
    else:
        inputs |= {name: _channels_first(inputs[name]) for name in ("obs", "next_obs")}
    loss, twin_losses = twin.loss(inputs, torch.tensor(np.array(noise)))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.trained, config.agent.max_grad_norm)
    # A network whose weights are the agent's gradients.
    gradients = Rainbow(config, _gradients(state, new_state.opt_state), boundary, on_latents=on_latents).net
    trained = {name for name, p in twin.net.named_parameters() if p.requires_grad}
    return {
        "losses": ([losses], [twin_losses.detach()]),
        "gradients": (
            [p.detach() for name, p in gradients.named_parameters() if name in trained],
            [p.grad for p in twin.trained],
        ),
    }


def _compare_curl(
    config: ConfigDict, agent: base.Agent, state: base.TrainState, batch: replay.Batch, *, on_latents: bool
) -> Pairs:
    update: Any = (agent.latent_updates if on_latents else agent.updates)[0]
    _, key = base.update_keys(state)
    k_views, k_target, k_actor = jax.random.split(key, 3)
    new_state, _, info = jax.jit(update)(state, batch)
    views = update._see(k_views, batch)
    features = update._features(state.params, views.obs)
    next_policy = update._policy(state.params, update._features(state.params, views.next_obs))
    next_noise, actor_noise = (
        _policy_noise(next_policy, k_target),
        _policy_noise(update._policy(state.params, features), k_actor),
    )
    actor_state, actor_info = jax.jit(update._update_actor)(state, features, k_actor)

    boundary = boundary_shape(config)
    twin = Curl(config, jax.device_get(state.params), boundary, on_latents=on_latents)
    inputs = _to_torch(vars(batch)) | _to_torch(views._asdict())
    if not on_latents:
        inputs |= {name: _channels_first(inputs[name]) for name in ("obs", "next_obs", "positive")}
    q_loss, contrast = twin.critic_losses(inputs, next_noise)
    actor_loss, _ = twin.actor_losses(inputs, actor_noise)

    # Networks whose weights are the agent's gradients.
    critic = Curl(config, _gradients(state, new_state.opt_state), boundary, on_latents=on_latents)
    actor = Curl(config, _gradients(state, actor_state.opt_state), boundary, on_latents=on_latents)
    pairs = {
        "q_loss": ([info["critic_loss"]], [q_loss.detach()]),
        "q_gradients": (
            _detached(critic.critic_parameters),
            torch.autograd.grad(q_loss, twin.critic_parameters, retain_graph=True),
        ),
        "actor_loss": ([actor_info["actor_loss"]], [actor_loss.detach()]),
        "actor_gradients": (
            _detached(actor.actor_parameters),
            torch.autograd.grad(actor_loss, twin.actor_parameters),
        ),
    }
    if contrast is not None:
        moments = dict(new_state.opt_state["contrast"][0].mu.items())
        contrastive = Curl(config, _scaled_to_gradients(state, moments), boundary, on_latents=False)
        pairs |= {
            "contrast_loss": ([info["contrast_loss"]], [contrast.detach()]),
            "contrast_gradients": (
                _detached(contrastive.contrast_parameters),
                torch.autograd.grad(contrast, twin.contrast_parameters),
            ),
        }
    return pairs


def _gradients(state: base.TrainState, opt_state: base.Params) -> base.Params:
    """Returns the gradients of the first update, in the shapes of all parameters; zeros where there are none.

    Args:
      state: before the update.
      opt_state: after it.
    """
    moments = {}
    for part, part_state in opt_state.items():
        mu = part_state[0].mu
        if jax.tree.structure(mu) == jax.tree.structure(state.params[part]):
            moments[part] = mu
    return _scaled_to_gradients(state, moments)


def _scaled_to_gradients(state: base.TrainState, moments: base.Params) -> base.Params:
    zeros = jax.tree.map(np.zeros_like, jax.device_get(state.params))
    return zeros | jax.tree.map(lambda x: np.asarray(x) / _FIRST_MOMENT, moments)


def _policy_noise(policy: distrax.Transformed, key: jax.Array) -> torch.Tensor:
    """Returns the standard normal noise with which the policy samples for a key, `[B, A]`."""
    gaussian = policy.distribution
    noise = (gaussian.sample(seed=key) - gaussian.mean()) / gaussian.stddev()
    return torch.tensor(np.array(noise))


def _to_torch(fields: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    tensors = {name: torch.tensor(np.array(x)) for name, x in fields.items()}
    return {name: x.long() if x.dtype == torch.int32 else x for name, x in tensors.items()}


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def _detached(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in parameters]
