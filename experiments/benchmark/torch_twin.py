"""Eager PyTorch twins of both agents: the same architectures, batches and order of updates.

The benchmark compares with them. They are written as PyTorch users write: modules, autograd, `torch.optim`. Their
weights are copies of the agent's, so that losses and gradients can be compared before anything is timed.
"""

import jax
from ml_collections import ConfigDict

from experiments.benchmark.torch_curl import Curl
from experiments.benchmark.torch_rainbow import Rainbow
from seer_jax.agents import base, curl_networks, rainbow


def make_twin(
    config: ConfigDict, params: base.Params, boundary: tuple[int, ...], *, on_latents: bool
) -> Rainbow | Curl:
    """Returns the twin of an agent.

    Args:
      config: a resolved configuration.
      params: of the agent, which are copied.
      boundary: `(H, W, C)` of the output of the last convolution.
      on_latents: whether the twin learns from stored latents and leaves its encoder as it is.
    """
    twin = {"rainbow": Rainbow, "curl_sac": Curl}[config.agent.name]
    return twin(config, jax.device_get(params), boundary, on_latents=on_latents)


def boundary_shape(config: ConfigDict) -> tuple[int, ...]:
    """Returns `(H, W, C)` of the output of the last convolution."""
    if config.agent.name == "rainbow":
        return rainbow.Networks(config, num_actions=1).boundary_shape
    return curl_networks.Networks(config, action_size=1).boundary_shape
