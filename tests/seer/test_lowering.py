"""The programs of both phases, lowered for accelerators that the tests do not run on."""

import functools
import re

import jax
import pytest
from jax import export

from seer_jax.run.assembly import assemble
from seer_jax.seer import phases, signals
from tests.helpers import agents

CASES = {
    "rainbow": {"encoder__name": "impala", "seer__freeze_through": "section3", "replay__prioritized": True},
    "curl_sac": {"encoder__name": "sac_ae"},
}


@functools.cache
def make_assembly(case):
    # Several updates in a call.
    config = agents.small_config(case, replay__capacity=2000, num_envs=4, **CASES[case])
    return assemble(config, agents.ACTION_SPECS[case])


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", [phases.FULL, phases.FROZEN])
@pytest.mark.parametrize("case", CASES)
def test_programs_lower_for_accelerators_without_callbacks_and_with_donated_rings(case, name, platform):
    phase = make_assembly(case).phase(name)
    ring, jitted = phase.ring, phase.jit(platform)
    for program, arguments in ((jitted.interact, jitted.interact_arguments), (jitted.learn, jitted.learn_arguments)):
        exported = export.export(program, platforms=[platform])(*arguments)
        assert exported.platforms == (platform,)
        # Lines of source locations hold names of functions, which may say anything.
        module = "\n".join(line for line in exported.mlir_module().splitlines() if not line.startswith("#loc"))
        # Nothing calls back into Python.
        assert not re.search(r"callback|infeed|outfeed|host", module)
        # Every array of the ring is given away, so that it can be written in place.
        donated = len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", module))
        assert donated >= len(jax.tree.leaves(ring))
        if program is jitted.learn:
            assert ("stablehlo.convolution" in module) == (name == phases.FULL)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("case", CASES)
def test_signals_lower_for_accelerators_without_callbacks(case, platform):
    phase = make_assembly(case).full
    encoder = signals.encoder_of(phase.state.params)
    references, key = signals.References(encoder, encoder), jax.eval_shape(lambda: jax.random.PRNGKey(0))
    program = jax.jit(signals.make_measure(phase))
    exported = export.export(program, platforms=[platform])(phase.state.params, references, phase.ring, key)
    module = "\n".join(line for line in exported.mlir_module().splitlines() if not line.startswith("#loc"))
    assert not re.search(r"callback|infeed|outfeed|host|custom_call", module)
    assert "stablehlo.convolution" in module
