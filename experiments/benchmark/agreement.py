"""Checks that an agent and its PyTorch twin compute the same losses and gradients.

Both get the same weights, batch and noise. The agent's gradients are read from Adam's first moments after one update,
which are `1 - b1` = 0.1 of the gradients. An update of CURL steps the encoder on two losses: first moments are compared
there. It steps the actor after the critic; for the actor alone the loss is differentiated here, before any step.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmark.torch_curl import Curl
from experiments.benchmark.torch_rainbow import Rainbow
from seer_jax import replay
from seer_jax.agents import base, curl
from seer_jax.config import RunConfig
from seer_jax.networks import heads
from seer_jax.seer import phases
from seer_jax.seer.phases import Phase

_FIRST_MOMENT = 0.1
_STEPS = base.Steps(jnp.int32(0), jnp.int32(1))  # of the update: no period ends there

Arrays = Iterable[Any]  # of JAX, NumPy or PyTorch
Pairs = dict[str, tuple[Arrays, Arrays]]  # the agent's and the twin's losses or gradients, by name


def differences(config: RunConfig, phase: Phase, state: base.TrainState, batch: replay.Batch) -> dict[str, float]:
    """Returns the largest absolute differences of losses and gradients, relative to the agent's largest entry.

    Args:
      config: the configuration.
      phase: in which both learn.
      state: of the agent, before any update.
      batch: that both learn from.
    """
    compare = {"rainbow": _compare_rainbow, "curl_sac": _compare_curl}[config.agent.name]
    pairs = compare(config, phase, state, batch)
    return {name: _difference(agents, twins) for name, (agents, twins) in pairs.items()}


def _difference(agents: Arrays, twins: Arrays) -> float:
    agents, twins = ([np.asarray(x, np.float64) for x in arrays] for arrays in (agents, twins))
    scale = max(np.abs(x).max() for x in agents)
    return float(max(np.abs(x - y).max() for x, y in zip(agents, twins, strict=True)) / scale)


def _compare_rainbow(config: RunConfig, phase: Phase, state: base.TrainState, batch: replay.Batch) -> Pairs:
    (update,), frozen = phase.learner.updates, phase.name == phases.FROZEN
    new_state, losses, _ = jax.jit(update)(state, batch, _STEPS)
    twin = Rainbow(config, jax.device_get(state.params), frozen=frozen)
    _, key = base.update_keys(state)
    noise = jnp.stack([heads.draw_noise(k, (sum(twin.net.noise_sizes),)) for k in jax.random.split(key)])
    inputs = _to_torch(vars(batch))
    if frozen:
        inputs |= {"obs": inputs["obs"][:, 0], "next_obs": inputs["next_obs"][:, 0]}
    else:
        inputs |= {name: _channels_first(inputs[name]) for name in ("obs", "next_obs")}
    loss, twin_losses = twin.loss(inputs, torch.tensor(np.array(noise)))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.trained, twin.agent.max_grad_norm)
    # A network whose weights are the agent's gradients.
    gradients = Rainbow(config, _gradients(state, new_state.opt_state), frozen=frozen).net
    trained = {name for name, p in twin.net.named_parameters() if p.requires_grad}
    return {
        "losses": ([losses], [twin_losses.detach()]),
        "gradients": (
            [p.detach() for name, p in gradients.named_parameters() if name in trained],
            [p.grad for p in twin.trained],
        ),
    }


def _compare_curl(config: RunConfig, phase: Phase, state: base.TrainState, batch: replay.Batch) -> Pairs:
    update: Any = phase.learner.updates[0]
    frozen = phase.name == phases.FROZEN
    _, key = base.update_keys(state)
    k_views, k_target, k_actor = jax.random.split(key, 3)
    new_state, _, info = jax.jit(update)(state, batch, _STEPS)
    views = update._augment(k_views, batch)
    features, next_features = (update._features(state.params, x) for x in (views.obs, views.next_obs))
    next_noise = _policy_noise(update._policy(state.params, next_features), k_target)
    actor_noise = _policy_noise(update._policy(state.params, features), k_actor)
    actor_parts = {part: state.params[part] for part in curl._ACTOR_PARTS if part in state.opt_state}
    actor_loss_and_grad = jax.jit(jax.value_and_grad(update._actor_loss, has_aux=True))
    (agents_actor_loss, _), actor_grads = actor_loss_and_grad(actor_parts, state.params, features, k_actor)

    twin = Curl(config, jax.device_get(state.params), frozen=frozen)
    inputs = _to_torch(vars(batch)) | _to_torch(views._asdict())
    if not frozen:
        inputs |= {name: _channels_first(inputs[name]) for name in ("obs", "next_obs", "positive")}
    q_loss, contrast = twin.critic_losses(inputs, next_noise)
    actor_loss, _ = twin.actor_losses(inputs, actor_noise)
    actor_gradients = torch.autograd.grad(actor_loss, twin.actor_parameters)
    q_gradients = torch.autograd.grad(q_loss, twin.critic_parameters, retain_graph=True)

    # Networks whose weights are the agent's gradients.
    critic = Curl(config, _gradients(state, new_state.opt_state), frozen=frozen)
    actor = Curl(config, _zeros(state) | actor_grads, frozen=frozen)
    pairs = {
        "q_loss": ([info["critic_loss"]], [q_loss.detach()]),
        "q_gradients": (
            _detached(critic.critic_parameters[len(critic.encoder_parameters) :]),
            q_gradients[len(twin.encoder_parameters) :],
        ),
        "actor_loss": ([agents_actor_loss], [actor_loss.detach()]),
        "actor_gradients": (_detached(actor.actor_parameters), actor_gradients),
    }
    if contrast is not None:
        contrastive = Curl(config, _scaled_to_gradients(state, new_state.opt_state["contrast"][0].mu), frozen=False)
        contrast_gradients = torch.autograd.grad(contrast, twin.contrast_parameters)
        twin.step_critic(q_gradients)
        twin.step_contrast(contrast_gradients)
        twin_moments = [twin.critic_optimizer.state[p]["exp_avg"] / _FIRST_MOMENT for p in twin.encoder_parameters]
        pairs |= {
            "contrast_loss": ([info["contrast_loss"]], [contrast.detach()]),
            "contrast_gradients": (_detached(contrastive.contrast_parameters), contrast_gradients),
            "encoder_moments": (_detached(critic.encoder_parameters), twin_moments),
        }
    return pairs


def _gradients(state: base.TrainState, opt_state: base.Params) -> base.Params:
    """Returns first moments after the first update over 0.1, in the shapes of all parameters; zeros without moments.

    They are the gradients of all parameters that one loss steps once.

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
    return _zeros(state) | jax.tree.map(lambda x: np.asarray(x) / _FIRST_MOMENT, moments)


def _zeros(state: base.TrainState) -> base.Params:
    """Returns zeros in the shapes of all parameters."""
    return jax.tree.map(np.zeros_like, jax.device_get(state.params))


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
