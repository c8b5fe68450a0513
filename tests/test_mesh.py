"""Runs the tests of `tests/mesh`, which need several devices, in a process whose CPU pretends to be eight."""

import os
import subprocess
import sys

from tests.mesh import DEVICES


def test_tests_on_eight_devices_pass():
    # Without the older emitters of `conftest`: they round differently in programs of several devices.
    flags = os.environ.get("XLA_FLAGS", "").replace("--xla_cpu_use_fusion_emitters=false", "")
    several = f"{flags} --xla_force_host_platform_device_count={DEVICES}".strip()
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:xdist", "-p", "no:cacheprovider", "tests/mesh"]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": several}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SKIPPED" not in done.stdout, done.stdout
    print(done.stdout)
