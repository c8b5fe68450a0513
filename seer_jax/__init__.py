"""seer_jax: reinforcement learning from pixels with stored embeddings."""

import importlib.util
import os
import pathlib

from jaxlib.version import __version__ as _JAXLIB

__version__ = "0.4.0"

# jaxlib routes convolutions on the CPU to kernels that are several times slower than its earlier ones. The option must
# be set before the backend starts, and jaxlib ends the process at an option that it does not know. It is therefore set
# for tested versions only, and never against a choice of the user.
_CONV_OPTION = "--xla_cpu_experimental_ynn_fusion_type"
TESTED_JAXLIB = ("0.10.2", "0.12.0.1")
if _JAXLIB in TESTED_JAXLIB and _CONV_OPTION not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_CONV_OPTION}=-individual_convolution".strip()

# Compilers for accelerators are also installed to plan for devices that are not there. When JAX looks for devices,
# they warn of what they cannot find, unless the environment says what they need. On a machine that has a device of
# Google on its PCI bus, or one of NVIDIA, nothing is set: JAX checks the accelerator as always, and uses it.
_PCI_VENDORS = pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")
if importlib.util.find_spec("libtpu") and not any(path.read_text().strip() == "0x1ae0" for path in _PCI_VENDORS):
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
if not any(os.path.exists(device) for device in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")):
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
