"""Eager PyTorch twins of both agents: the same architectures, batches and order of updates.

The benchmark compares with them. They are written as PyTorch users write: modules, autograd, `torch.optim`. Their
weights are copies of the agent's, so that losses and gradients can be compared before anything is timed.
"""

import jax
import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmark.torch_curl import Curl
from experiments.benchmark.torch_layers import CPU
from experiments.benchmark.torch_rainbow import Rainbow
from seer_jax.agents import base
from seer_jax.config import RunConfig


def make_twin(config: RunConfig, params: base.Params, *, frozen: bool, device: torch.device = CPU) -> Rainbow | Curl:
    """Returns the twin of an agent.

    Args:
      config: the configuration.
      params: of the agent, which are copied.
      frozen: whether the twin learns from stored latents and leaves its encoder as it is.
      device: of its parameters and of all that it computes.
    """
    twin = {"rainbow": Rainbow, "curl_sac": Curl}[config.agent.name]
    return twin(config, jax.device_get(params), frozen=frozen, device=device)
