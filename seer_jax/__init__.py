"""seer_jax: reinforcement learning from pixels with stored embeddings."""

import os

from jaxlib.version import __version__ as _JAXLIB

__version__ = "0.3.0"

# jaxlib routes convolutions on the CPU to kernels that are several times slower than its earlier ones. The option must
# be set before the backend starts, and jaxlib ends the process at an option that it does not know. It is therefore set
# for tested versions only, and never against a choice of the user.
_CONV_OPTION = "--xla_cpu_experimental_ynn_fusion_type"
TESTED_JAXLIB = ("0.10.2", "0.12.0.1")
if _JAXLIB in TESTED_JAXLIB and _CONV_OPTION not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_CONV_OPTION}=-individual_convolution".strip()
