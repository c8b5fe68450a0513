"""What importing the package sets."""

import os
import subprocess
import sys

import pytest

OPTION = "--xla_cpu_experimental_ynn_fusion_type"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{OPTION}=-individual_convolution"),
        ("--xla_cpu_enable_fast_math=false", f"--xla_cpu_enable_fast_math=false {OPTION}=-individual_convolution"),
        (f"{OPTION}=", f"{OPTION}="),
    ],
)
def test_the_option_for_fast_convolutions_is_added_to_the_users(before, after):
    code = "import os, seer_jax, jax; jax.devices(); print(os.environ['XLA_FLAGS'])"
    environ = os.environ | {"XLA_FLAGS": before}
    out = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == after
