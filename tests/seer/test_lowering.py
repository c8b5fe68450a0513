"""The programs of both phases, lowered for accelerators that the tests do not run on."""

import re

import jax
import numpy as np
import pytest
from dm_env import specs
from jax import export

from configs import curl_dmc, rainbow_atari
from seer_jax.run import assembly
from seer_jax.run import resolve as config_lib
from seer_jax.seer import phases

CASES = {
    "rainbow": (rainbow_atari.get_config, specs.DiscreteArray(18)),
    "curl": (curl_dmc.get_config, specs.BoundedArray((6,), np.float32, -1, 1)),
}


def make_parts(case):
    get_config, action_spec = CASES[case]
    config = get_config()
    config.total_steps, config.replay.capacity, config.seer.freeze_step = 4000, 2000, 2000
    if case == "rainbow":
        config.encoder.name, config.replay.prioritized = "impala", True
        config.replay.allow_more_memory = True
        config.num_envs = 4  # several updates in a call
    return assembly.assemble(config_lib.resolve(config), action_spec)


def arguments(parts, phase):
    state, ring = parts.state(phase), parts.ring(phase)
    return {"interact": (state.params, parts.actor, ring, parts.timestep), "learn": (state, ring)}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("phase", [phases.FULL, phases.FROZEN])
@pytest.mark.parametrize("case", CASES)
def test_programs_lower_for_accelerators(case, phase, platform):
    parts = make_parts(case)
    jitted = parts.jit(phase, platform)
    for name, args in arguments(parts, phase).items():
        program = export.export(getattr(jitted, name), platforms=[platform])(*args)
        assert program.platforms == (platform,)
        module = program.mlir_module()
        # Nothing calls back into Python.
        assert not re.search(r"callback|infeed|outfeed|host", module)
        # Every array of the ring is given away, so that it can be written in place.
        ring_arrays = len(jax.tree.leaves(args[-2] if name == "interact" else args[-1]))
        donated = len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", module))
        assert donated >= ring_arrays
        if name == "learn":
            assert ("stablehlo.convolution" in module) == (phase == phases.FULL)


def test_updates_share_a_loop_where_the_platform_allows_it():
    """Written out on the CPU alone, whose convolution gradients are slow in loops."""
    parts = make_parts("rainbow")
    assert parts.jit(phases.FULL, "cpu").loop_length == 1
    assert parts.jit(phases.FULL, "cuda").loop_length == 4
    assert parts.jit(phases.FROZEN, "cpu").loop_length == 4
