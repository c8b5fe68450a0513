"""Layers of the PyTorch twins, with the weights of this package's layers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from numpy.typing import ArrayLike
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from seer_jax.agents import base

Layer = Mapping[str, ArrayLike]  # parameters of one Flax layer, by name
_STAGES = {  # features, kernel and stride of each convolution
    "data_efficient": ((32, 5, 5), (64, 5, 5)),
    "sac_ae": ((32, 3, 2), (32, 3, 1), (32, 3, 1), (32, 3, 1)),
}
_IMPALA_FEATURES = (16, 32, 32)
CPU = torch.device("cpu")


def to_tensor(array: ArrayLike) -> torch.Tensor:
    """Returns a copy of the array."""
    return torch.tensor(np.array(array))


def make_adam(parameters: Sequence[nn.Parameter], **options: Any) -> torch.optim.Adam:
    """Returns Adam; on a GPU its counter of steps lives there, so that a CUDA graph can hold a step."""
    return torch.optim.Adam(parameters, capturable=parameters[0].is_cuda, **options)


def scale_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """Maps uint8 `[B, C, H, W]` to floats between 0 and 1."""
    return pixels.float() / 255.0


def random_crop(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Maps `[B, H, W, C]` to random crops `[B, C, size, size]`."""
    batch, height, width, _ = pixels.shape
    top, left = (torch.randint(n - size + 1, (batch,), device=pixels.device) for n in (height, width))
    return pixels.unfold(1, size, 1).unfold(2, size, 1)[torch.arange(batch, device=pixels.device), top, left]


class ResidualSection(nn.Module):
    """A section of the IMPALA encoder: a convolution, pooling and two residual blocks."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(size, features, 3, padding=1) for size in (channels, features, features, features, features)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, C, H, W]` to `[B, features, ceil(H / 2), ceil(W / 2)]`."""
        x = self.convs[0](x)
        # Pads as XLA's SAME does: an odd row or column of padding comes after the image.
        pads = [max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in (x.shape[3], x.shape[2])]
        x = functional.pad(x, [side for pad in pads for side in (pad // 2, pad - pad // 2)], value=-math.inf)
        x = functional.max_pool2d(x, 3, 2)
        for first, second in ((self.convs[1], self.convs[2]), (self.convs[3], self.convs[4])):
            x = x + second(functional.relu(first(functional.relu(x))))
        return x


def make_encoder(name: str, channels: int, params: base.Params, stages: Sequence[str]) -> nn.Sequential:
    """Returns an encoder that maps floats `[B, channels, H, W]` to `[B, C, h, w]`.

    Args:
      name: of the encoder in a configuration.
      channels: of its input.
      params: of this package's encoder, by stage.
      stages: those with convolutions, in order.
    """
    if name == "impala":
        widths = itertools.pairwise((channels, *_IMPALA_FEATURES))
        encoder = nn.Sequential(*(ResidualSection(*pair) for pair in widths), nn.ReLU())
    else:
        layers: list[nn.Module] = []
        for features, kernel, stride in _STAGES[name]:
            layers += [nn.Conv2d(channels, features, kernel, stride), nn.ReLU()]
            channels = features
        encoder = nn.Sequential(*layers)
    sources = [layer for stage in stages for _, layer in sorted(params[stage]["params"].items())]
    convs = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    for conv, source in zip(convs, sources, strict=True):
        conv.weight.data = to_tensor(source["kernel"]).permute(3, 2, 0, 1).contiguous()
        assert conv.bias is not None
        conv.bias.data = to_tensor(source["bias"])
    return encoder


def make_linear(layer: Layer, image_shape: tuple[int, ...] | None = None) -> nn.Linear:
    """Returns a dense layer.

    Args:
      layer: its `kernel` and `bias`.
      image_shape: `(H, W, C)` of the images that it reads flattened; its inputs are then reordered to channels first.
    """
    kernel = to_tensor(layer["kernel"])
    inputs, outputs = kernel.shape
    linear = nn.Linear(inputs, outputs)
    if image_shape is not None:
        kernel = kernel.reshape(*image_shape, -1).permute(2, 0, 1, 3).reshape(len(kernel), -1)
    linear.weight.data, linear.bias.data = kernel.T.contiguous(), to_tensor(layer["bias"])
    return linear


def make_mlp(params: base.Params, prefix: str) -> nn.Sequential:
    """Returns three dense layers with ReLU between them; `prefix` and 1, 2 and 3 are their names in `params`."""
    layers: list[nn.Module] = []
    for i in (1, 2, 3):
        layers += [make_linear(params["params"][f"{prefix}{i}"]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class NoisyLinear(nn.Module):
    """A dense layer with factorised Gaussian noise (Fortunato et al. 2018)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.kernel, self.kernel_std = (
            nn.Parameter(to_tensor(layer[name]).T.contiguous()) for name in ("kernel", "kernel_std")
        )
        self.bias, self.bias_std = (nn.Parameter(to_tensor(layer[name])) for name in ("bias", "bias_std"))

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """Maps `[B, I]` to `[B, O]`; `noise` is `[I + O]`, or None for the mean weights."""
        if noise is None:
            return functional.linear(x, self.kernel, self.bias)
        by_input, by_output = noise[: x.shape[1]], noise[x.shape[1] :]
        weight = self.kernel + self.kernel_std * torch.outer(by_output, by_input)
        return functional.linear(x, weight, self.bias + self.bias_std * by_output)


class DenseNorm(nn.Module):
    """A dense layer on flattened images, with layer normalisation."""

    def __init__(self, params: base.Params, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        norm = params["params"]["LayerNorm_0"]
        self.dense = make_linear(params["params"]["Dense_0"], image_shape)
        self.norm = nn.LayerNorm(len(norm["scale"]))
        self.norm.weight.data, self.norm.bias.data = to_tensor(norm["scale"]), to_tensor(norm["bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, C, h, w]` to `[B, latent_size]`."""
        return self.norm(self.dense(x.flatten(1)))
