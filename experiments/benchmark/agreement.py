"""Whether an agent and its PyTorch twin compute the same losses and gradients from the same weights, batch and noise.

Gradients are read off Adam's first moment after the first step, which is a tenth of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict

from experiments.benchmark import torch_twin
from seer_jax import replay
from seer_jax.agents import base
from seer_jax.networks import heads

_FIRST_MOMENT = 0.1


def differences(
    config: ConfigDict,
    agent: base.Agent,
    state: base.TrainState,
    batch: replay.Batch,
    boundary: tuple[int, int, int],
    *,
    on_latents: bool,
) -> dict[str, float]:
    """Returns the greatest differences of losses and gradients, relative to the greatest entry of ours.

    Args:
      config: a resolved configuration.
      agent: ours.
      state: its state, before any update.
      batch: what both learn from.
      boundary: shape of the last convolution's output.
      on_latents: whether the batch holds latents.
    """
    check = {"rainbow": _rainbow, "curl_sac": _curl}[config.agent.name]
    pairs = check(config, agent, state, batch, boundary, on_latents)
    return {name: _difference(ours, theirs) for name, (ours, theirs) in pairs.items()}


def _difference(ours, theirs) -> float:
    ours, theirs = ([np.asarray(x, np.float64) for x in values] for values in (ours, theirs))
    scale = max(np.abs(x).max() for x in ours)
    return float(max(np.abs(x - y).max() for x, y in zip(ours, theirs, strict=True)) / scale)


def _rainbow(config, agent, state, batch, boundary, on_latents) -> dict[str, tuple]:
    (update,) = agent.latent_updates if on_latents else agent.updates
    new, losses, _ = jax.jit(update)(state, batch)
    twin = torch_twin.make_twin(config, state.params, boundary, on_latents=on_latents)
    _, key = base.update_keys(state)
    noise = jnp.stack([heads.draw_noise(k, (sum(twin.net.sizes),)) for k in jax.random.split(key, 3)])
    seen = _to_torch(batch)
    if on_latents:
        seen |= {"obs": seen["obs"][:, 0], "next_obs": seen["next_obs"][:, 0]}
    else:
        seen |= {name: seen[name].permute(0, 3, 1, 2) for name in ("obs", "next_obs")}
    loss, twin_losses = twin.loss(seen, torch.tensor(np.array(noise)))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.trained, config.agent.max_grad_norm)
    ours = _gradients(config, state, new, boundary, on_latents)
    trained = {name for name, p in twin.net.named_parameters() if p.requires_grad}
    return {
        "losses": ([losses], [twin_losses.detach()]),
        "gradients": (
            [p.detach() for name, p in ours.named_parameters() if name in trained],
            [p.grad for p in twin.trained],
        ),
    }


def _curl(config, agent, state, batch, boundary, on_latents) -> dict[str, tuple]:
    update = (agent.latent_updates if on_latents else agent.updates)[0]
    _, key = base.update_keys(state)
    k_views, k_target, k_actor = jax.random.split(key, 3)
    new, _, info = jax.jit(update)(state, batch)
    views = update._see(k_views, batch)
    features = update._features(state.params, views.obs)
    next_noise = _policy_noise(update._policy(state.params, update._features(state.params, views.next_obs)), k_target)
    actor_noise = _policy_noise(update._policy(state.params, features), k_actor)
    with_actor, actor_info = jax.jit(update._update_actor)(state, features, k_actor)

    twin = torch_twin.make_twin(config, state.params, boundary, on_latents=on_latents)
    seen = _to_torch(batch) | _to_torch(views)
    if not on_latents:
        seen |= {name: seen[name].permute(0, 3, 1, 2) for name in ("obs", "next_obs", "positive")}
    q_loss, contrast = twin.critic_losses(seen, next_noise)
    critic = torch.autograd.grad(q_loss, twin.critic_parameters, retain_graph=True)
    actor_loss, _ = twin.actor_losses(seen, actor_noise)
    actor = torch.autograd.grad(actor_loss, twin.actor_parameters)

    ours = torch_twin.Curl(config, _moments(state, new.opt_state), boundary, on_latents=on_latents)
    ours_actor = torch_twin.Curl(config, _moments(state, with_actor.opt_state), boundary, on_latents=on_latents)
    pairs = {
        "q_loss": ([info["critic_loss"]], [q_loss.detach()]),
        "q_gradients": (_detached(ours.critic_parameters), critic),
        "actor_loss": ([actor_info["actor_loss"]], [actor_loss.detach()]),
        "actor_gradients": (_detached(ours_actor.actor_parameters), actor),
    }
    if contrast is not None:
        contrast_grads = torch.autograd.grad(contrast, twin.contrast_parameters)
        moments = dict(new.opt_state["contrast"][0].mu.items())
        ours = torch_twin.Curl(config, _moments(state, {}, moments), boundary, on_latents=False)
        pairs |= {
            "contrast_loss": ([info["contrast_loss"]], [contrast.detach()]),
            "contrast_gradients": (_detached(ours.contrast_parameters), contrast_grads),
        }
    return pairs


def _moments(state: base.TrainState, opt_state: base.Params, moments: base.Params | None = None) -> base.Params:
    """Returns gradients in the shape of all parameters; zeros where there are none."""
    found = moments or {}
    for part, part_state in opt_state.items():
        mu = part_state[0].mu
        if jax.tree.structure(mu) == jax.tree.structure(state.params[part]):
            found = found | {part: mu}
    zeros = jax.tree.map(np.zeros_like, jax.device_get(state.params))
    return zeros | jax.tree.map(lambda x: np.asarray(x) / _FIRST_MOMENT, found)


def _gradients(config, state, new, boundary, on_latents) -> torch.nn.Module:
    """Returns a network whose weights are our gradients."""
    return torch_twin.make_twin(config, _moments(state, new.opt_state), boundary, on_latents=on_latents).net


def _detached(parameters) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in parameters]


def _policy_noise(policy, key: jax.Array) -> torch.Tensor:
    """Returns the standard normals that the policy draws from a key."""
    gaussian = policy.distribution
    noise = (gaussian.sample(seed=key) - gaussian.mean()) / gaussian.stddev()
    return torch.tensor(np.array(noise))


def _to_torch(values) -> dict[str, torch.Tensor]:
    fields = values._asdict() if hasattr(values, "_asdict") else vars(values)
    made = {name: torch.tensor(np.array(x)) for name, x in fields.items()}
    return {name: x.long() if x.dtype == torch.int32 else x for name, x in made.items()}
