"""The output of every layer of an agent's networks, by name."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from dm_env import specs

from seer_jax.agents import base, curl, curl_networks, rainbow
from seer_jax.config import RunConfig
from seer_jax.networks import encoders, heads

Activations = dict[str, jax.Array]
# Parameters, `[B, h, w, C]` uint8 views, and actions for a critic.
ActivationsFn = Callable[[base.Params, jax.Array, Any], Activations]


def make_activations(config: RunConfig, action_spec: specs.Array) -> ActivationsFn:
    """Returns the jitted `(params, views, action) -> activations` of the agent that the configuration gives.

    The activations of a hidden layer are those after its ReLU; those of the last layer of a head are its output.
    Names do not depend on where the encoder is split:
      both: `encoder/STAGE`, with the stages of `encoders.ENCODERS`, `[B, H, W, C]`, or `[B, C]` if it pools.
      Rainbow: `heads/value_hidden` and `heads/advantage_hidden`, `[B, hidden]`, `heads/value`, `[B, num_atoms]`,
        `heads/advantage`, `[B, num_actions * num_atoms]`, and `heads/logits`, `[B, num_actions, num_atoms]`; noisy
        layers use their means.
      CURL-SAC: `encoder/dense` and `actor_encoder/dense`, `[B, latent_size]`, which the paper (section 5.5) calls fc1
        of Q-network and policy; after them `critic/q1_fc1` to `critic/q1_fc3`, the same of `q2`, and `actor/fc1` to
        `actor/fc3`: twice `[B, hidden]`, and the outputs, `[B, 1]` of a Q-function and `[B, 2 * A]` of the policy, the
        first A of which are means before tanh.

    Args:
      config: the configuration of the run.
      action_spec: action of one environment.

    Returns:
      A function of three arguments. The parameters are those of a `TrainState`, or of a tree that `files.load_tree`
      read, of either phase. The views are `[B, h, w, C]` uint8, as `Agent.view` returns them. The actions are `[B, A]`:
      CURL's critic reads them, and they must be the same for parameters that are compared. Rainbow ignores them.
    """
    make = {"rainbow": _rainbow, "curl_sac": _curl_sac}[config.agent.name]
    return jax.jit(make(config, action_spec))


def _rainbow(config: RunConfig, action_spec: specs.DiscreteArray) -> ActivationsFn:
    networks = rainbow.make_networks(config, action_spec.num_values)

    def activations(params: base.Params, views: jax.Array, action: None) -> Activations:
        del action
        stages = _stages(networks, params, views)
        latent = encoders.flatten([*stages.values()][-1])
        logits, layers = _layers(networks.head, params["heads"], latent)
        hidden = {f"heads/{name}": nn.relu(layers.pop(name)) for name in ("value_hidden", "advantage_hidden")}
        return stages | hidden | {f"heads/{name}": x for name, x in layers.items()} | {"heads/logits": logits}

    return activations


def _curl_sac(config: RunConfig, action_spec: specs.BoundedArray) -> ActivationsFn:
    (action_size,) = action_spec.shape
    networks = curl.make_networks(config, action_size)

    def activations(params: base.Params, views: jax.Array, action: jax.Array) -> Activations:
        stages = _stages(networks, params, views)
        features = stages[f"encoder/{networks.encoder.names[-1]}"]
        latent = networks.latent(params, features, curl_networks.CRITIC)
        actor_latent = networks.latent(params, features, curl_networks.ACTOR)
        _, critic = _layers(networks.critic, params["critic"], latent, action)
        _, policy = _layers(networks.policy, params["actor"], actor_latent)
        return (
            stages
            | {"encoder/dense": latent, "actor_encoder/dense": actor_latent}
            | _mlp("critic/q1_fc", critic, "q1_")
            | _mlp("critic/q2_fc", critic, "q2_")
            | _mlp("actor/fc", policy, "policy")
        )

    return activations


def _stages(networks: rainbow.Networks | curl_networks.Networks, params: base.Params, views: jax.Array) -> Activations:
    """Returns the outputs of the encoder's stages in order, frozen ones first."""
    x, outputs = encoders.to_float(views), {}
    for encoder, part in ((networks.encoder, "encoder"), (networks.tail, "tail")):
        for name, output in encoder.outputs(params[part], x).items():
            x = outputs[f"encoder/{name}"] = output
    return outputs


def _layers(head: Any, params: Any, *inputs: jax.Array) -> tuple[Any, Activations]:
    """Applies a head; returns its output, and the outputs of its dense layers by module name, before any ReLU."""

    def is_layer(module: nn.Module, method: str) -> bool:
        return isinstance(module, nn.Dense | heads.NoisyDense)

    output, captured = head.apply(params, *inputs, capture_intermediates=is_layer)
    return output, {name: calls["__call__"][0] for name, calls in captured["intermediates"].items()}


def _mlp(name: str, layers: Activations, module: str) -> Activations:
    """Names two hidden layers with ReLU and an output layer, the three modules `module1` to `module3`."""
    first, second, last = (layers[f"{module}{i}"] for i in (1, 2, 3))
    return {f"{name}1": nn.relu(first), f"{name}2": nn.relu(second), f"{name}3": last}
