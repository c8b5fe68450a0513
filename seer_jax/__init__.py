"""seer_jax: reinforcement learning from pixels with stored embeddings."""

import importlib.util
import os
import pathlib

from jaxlib.version import __version__ as _JAXLIB

__version__ = "0.3.0"

# jaxlib routes convolutions on the CPU to kernels that are several times slower than its earlier ones. The option must
# be set before the backend starts, and jaxlib ends the process at an option that it does not know. It is therefore set
# for tested versions only, and never against a choice of the user.
_CONV_OPTION = "--xla_cpu_experimental_ynn_fusion_type"
TESTED_JAXLIB = ("0.10.2", "0.12.0.1")
if _JAXLIB in TESTED_JAXLIB and _CONV_OPTION not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_CONV_OPTION}=-individual_convolution".strip()

# libtpu is also installed to plan for TPUs on machines without one. When JAX looks for devices there, libtpu prints
# warnings that it cannot find out which TPU it has, unless the environment says one. On a machine with any device of
# Google on its PCI bus nothing is set: JAX finds the TPU and uses it.
_PCI_VENDORS = pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")
if importlib.util.find_spec("libtpu") and not any(path.read_text().strip() == "0x1ae0" for path in _PCI_VENDORS):
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
