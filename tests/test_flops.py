"""Counts of work: against loops over every multiplication, against XLA, and against the paper's figures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from configs import rainbow_atari
from seer_jax import flops, replay
from seer_jax.agents import curl as curl_sac
from seer_jax.agents import curl_networks, rainbow
from seer_jax.run import assembly
from seer_jax.run import resolve as config_lib
from seer_jax.seer import phases
from tests import test_curl_sac, test_rainbow
from tests.helpers.runs import tiny_control_config


def naive_convolution_macs(image, kernel, stride, padding):
    """Counts multiplications with real inputs one by one; square image, one channel."""
    total = 0
    outputs = (image + 2 * padding - kernel) // stride + 1
    for row in range(outputs):
        for col in range(outputs):
            for i in range(kernel):
                for j in range(kernel):
                    total += 0 <= row * stride + i - padding < image and 0 <= col * stride + j - padding < image
    return total


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_convolution_counts_what_meets_the_image(stride, padding):
    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, w = jax.ShapeDtypeStruct((5, 11, 11, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)
    forward = 5 * 3 * 4 * naive_convolution_macs(11, 3, stride, padding)
    assert flops.count_macs(convolve, x, w) == forward
    # Both gradients cost what forward costs, however XLA's dilations and paddings write them.
    gradient = jax.grad(lambda x, w: jnp.sum(convolve(x, w) ** 2), argnums=(0, 1))
    assert flops.count_macs(gradient, x, w) == 3 * forward


def test_loops_and_batches_are_multiplied_out():
    x = jnp.ones((6, 6))
    assert flops.count_macs(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=7)[0], x) == 7 * 6**3
    assert flops.count_macs(jax.vmap(lambda v: x @ v), jnp.ones((5, 6))) == 5 * 36
    assert flops.count_macs(jax.jit(jax.checkpoint(lambda x: x @ x)), x) == 6**3


def test_unknown_counts_are_refused():
    x = jnp.ones((4, 4))
    with pytest.raises(ValueError, match="use scan"):
        flops.count_macs(lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x), x)
    with pytest.raises(ValueError, match="branches"):
        flops.count_macs(lambda x: jax.lax.cond(x.sum() > 0, lambda x: x @ x, lambda x: x, x), x)


def test_paper_figures_of_data_efficient_rainbow():
    """Table 2 of the paper, 18 actions: an encoder of 1.28M, heads of 0.543M, and 3.3 times less after the freeze."""
    config = config_lib.resolve(rainbow_atari.get_config())
    agent = rainbow.make_agent(config, specs.DiscreteArray(18))
    encoder, heads = agent.passes(False)
    assert encoder.macs == pytest.approx(1.28e6, rel=0.001)
    assert heads.macs == pytest.approx(0.543e6, rel=0.001)
    acting = encoder.macs + heads.macs
    before = acting + flops.paper_macs(agent.passes(False), config.agent.batch_size)
    after = acting + flops.paper_macs(agent.passes(True), config.agent.batch_size)
    assert before / after == pytest.approx(3.3, abs=0.01)


# A pass backward rarely costs exactly two forward. The tests below say by how much, product by product.


def test_rainbow_passes_are_those_of_its_updates():
    config = test_rainbow.small_config()
    agent = rainbow.make_agent(config, test_rainbow.ACTIONS)
    state = jax.eval_shape(agent.init, jax.random.PRNGKey(0))
    batch = test_rainbow.random_batch()
    latents = jax.eval_shape(agent.encode, state.params, batch.obs)
    latents = batch.replace(obs=latents, next_obs=latents)
    size, hidden, atoms = len(batch.reward), config.agent.hidden, config.agent.num_atoms
    means = (test_rainbow.NUM_ACTIONS + 1) * atoms  # Q-values of the selector, and the one that is logged
    pixels = (8 * 8) * 32 * (5 * 5 * 4)  # no gradient of the images
    stored = 2 * math.prod(latents.obs.shape[1:]) * hidden  # nor of stored latents, in two streams
    for update, sampled, on_latents, missing in (
        (agent.updates[0], batch, False, pixels),
        (agent.latent_updates[0], latents, True, stored),
    ):
        expected = flops.paper_macs(agent.passes(on_latents), size) + size * (means - missing)
        assert flops.count_macs(update, state, sampled) == expected


def test_curl_passes_are_those_of_its_cycles():
    config = test_curl_sac.small_config()
    agent = curl_sac.make_agent(config, test_curl_sac.ACTION_SPEC)
    state = jax.eval_shape(agent.init, jax.random.PRNGKey(0))
    networks = curl_networks.Networks(config, action_size=2)
    batch = test_curl_sac.random_batch()
    size, hidden, latent, actions = len(batch.reward), config.agent.hidden, config.agent.latent_size, 2
    macs, actor = networks.macs(), 1 / 2  # the actor learns at every second update

    through_critic = actor * macs["critic"]  # to the action and no further
    pixels = 2 * (6 * 6) * 32 * (5 * 5 * 9)
    pairs = 2 * size * latent  # every anchor with every positive, and the anchors' gradient
    expected = flops.paper_macs(agent.passes(False), size)
    expected += size * (pairs - through_critic - pixels - actor * macs["actor_dense"])
    assert np.mean([flops.count_macs(update, state, batch) for update in agent.updates]) == expected

    frozen = jax.eval_shape(agent.freeze, state)
    latents = jax.eval_shape(lambda params, obs: agent.encode(params, agent.view(obs)), state.params, batch.obs)
    latents = batch.replace(obs=latents, next_obs=latents)
    stored = 2 * (latent + actions) * hidden + actor * latent * hidden
    expected = flops.paper_macs(agent.passes(True), size) - size * (through_critic + stored)
    assert np.mean([flops.count_macs(update, frozen, latents) for update in agent.latent_updates]) == expected


@pytest.mark.parametrize("on_latents", [False, True])
def test_xla_counts_our_products_and_up_to_a_third_more(on_latents):
    """The rest is done element by element: pixels to numbers, perturbed kernels, clipping, Adam."""
    config = config_lib.resolve(rainbow_atari.get_config())
    agent = rainbow.make_agent(config, specs.DiscreteArray(18))
    state = jax.eval_shape(agent.init, jax.random.PRNGKey(0))
    shape, dtype = ((32, 1, 576), jnp.float32) if on_latents else ((32, 84, 84, 4), jnp.uint8)
    obs, scalar = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((32,), jnp.float32)
    index = jax.ShapeDtypeStruct((32,), jnp.int32)
    batch = replay.Batch(
        obs=obs, action=index, reward=scalar, discount=scalar, next_obs=obs, weight=scalar, start=index
    )
    if on_latents:
        state = jax.eval_shape(agent.freeze, state)
    (update,) = agent.latent_updates if on_latents else agent.updates
    products = 2 * flops.count_macs(update, state, batch)
    assert 1 <= flops.xla_flops(jax.jit(update).lower(state, batch).compile()) / products < 4 / 3


def test_acting_costs_something_where_encoding_alone_would_take_more_than_both():
    """The compiled program leaves out the critic's dense layer, which encoding alone counts."""
    config = config_lib.resolve(tiny_control_config())
    parts = assembly.assemble(config, specs.BoundedArray((1,), np.float32, -1.0, 1.0))
    shapes = parts.state(phases.FULL).params, parts.actor, parts.timestep
    alone = phases._interact_costs(parts.agent, phases.FULL, 1e12, *shapes)
    total = alone["act"].flops + 1000.0
    split = phases._interact_costs(parts.agent, phases.FULL, total, *shapes)
    assert split["act"].flops == alone["act"].flops > 0
    assert split["encode"].flops == 1000.0


def test_ledger_adds_by_kind():
    ledger = flops.Ledger()
    ledger.add({"act": flops.Cost(2.0, 1.0), "encode": flops.Cost(20.0, 10.0)})
    ledger.add({"act": flops.Cost(2.0, 1.0) * 3})
    assert ledger.total == flops.Cost(28.0, 14.0)
    assert ledger.by_kind()["flops_act"] == 8.0
    assert ledger.by_kind()["macs_encode"] == 10.0
    assert ledger.by_kind()["macs_handover"] == 0.0
