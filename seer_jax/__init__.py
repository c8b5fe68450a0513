"""seer_jax: reinforcement learning from pixels with stored embeddings."""

import os

import jaxlib

__version__ = "0.2.0"

# jaxlib routes convolutions on the CPU to kernels that are several times slower than those it had. The
# option must be set before the backend starts, and one that jaxlib does not know ends the process: set it
# for tested versions alone, and never over a choice of the user's.
_CONV_OPTION = "--xla_cpu_experimental_ynn_fusion_type"
_TESTED_JAXLIB = ("0.10.2",)
if jaxlib.__version__ in _TESTED_JAXLIB and _CONV_OPTION not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_CONV_OPTION}=-individual_convolution".strip()
