"""Tests that need eight devices; `tests/test_mesh.py` gives them to a process of its own."""

import jax
import pytest

DEVICES = 8


def needs_devices():
    """Returns the mark of a module that is skipped on a machine with fewer devices."""
    return pytest.mark.skipif(len(jax.devices()) < DEVICES, reason=f"needs {DEVICES} devices")
