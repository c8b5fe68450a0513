"""Counts of work: against loops over every multiplication, against XLA, and against the paper's figures."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from configs import rainbow_atari
from seer_jax import flops, replay
from seer_jax.agents import curl, rainbow
from seer_jax.run.resolve import resolve
from tests.helpers import agents


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
def test_convolution_counts_products_with_pixels_and_none_with_padding(stride, padding):
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


def test_counts_of_loops_and_batches_are_multiplied_out():
    x = jnp.ones((6, 6))
    assert flops.count_macs(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=7)[0], x) == 7 * 6**3
    assert flops.count_macs(jax.vmap(lambda v: x @ v), jnp.ones((5, 6))) == 5 * 36
    assert flops.count_macs(jax.jit(jax.checkpoint(lambda x: x @ x)), x) == 6**3


def test_unknown_counts_raise():
    x = jnp.ones((4, 4))
    with pytest.raises(ValueError, match="use scan"):
        flops.count_macs(lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x), x)
    with pytest.raises(ValueError, match="branches"):
        flops.count_macs(lambda x: jax.lax.cond(x.sum() > 0, lambda x: x @ x, lambda x: x, x), x)


@functools.cache
def paper_agent():
    """Returns the configuration of the paper and its agent for 18 actions."""
    config = resolve(rainbow_atari.get_config())
    return config, rainbow.make_agent(config, specs.DiscreteArray(18))


def test_costs_of_data_efficient_rainbow_equal_the_papers():
    """Table 2 of the paper, 18 actions: an encoder of 1.28M, heads of 0.543M, and 3.3 times less after the freeze."""
    config, agent = paper_agent()
    encoder, heads = agent.full.passes()
    assert encoder.macs == pytest.approx(1.28e6, rel=0.001)
    assert heads.macs == pytest.approx(0.543e6, rel=0.001)
    acting = encoder.macs + heads.macs
    full, frozen = (
        acting + flops.paper_macs(learner.passes(), config.agent.batch_size) for learner in (agent.full, agent.frozen)
    )
    assert full / frozen == pytest.approx(3.3, abs=0.01)


# A backward pass rarely costs exactly two forward passes. The tests below say by how much, product by product.


def shapes_of(name):
    """Returns a small agent, shapes of its state in both phases, and a batch of observations and one of latents."""
    small, batch = agents.make(name), agents.random_batch(name)
    latents = jax.eval_shape(lambda p, obs: small.agent.encode(p, small.agent.view(obs)), small.state.params, batch.obs)
    frozen = jax.eval_shape(small.agent.freeze, small.state)
    return small, frozen, batch, batch.replace(obs=latents, next_obs=latents)


def test_passes_of_rainbow_equal_counts_of_its_updates():
    small, frozen, batch, latents = shapes_of("rainbow")
    agent, config = small.agent, small.config
    size, hidden, atoms = len(batch.reward), config.agent.hidden, config.agent.num_atoms
    means = (agents.NUM_ACTIONS + 1) * atoms  # Q-values of the selector, and the one that is logged
    pixels = (8 * 8) * 32 * (5 * 5 * 4)  # no gradient of the images
    stored = 2 * math.prod(latents.obs.shape[1:]) * hidden  # nor of stored latents, in two streams
    for learner, state, sampled, missing in (
        (agent.full, small.state, batch, pixels),
        (agent.frozen, frozen, latents, stored),
    ):
        expected = flops.paper_macs(learner.passes(), size) + size * (means - missing)
        assert flops.count_macs(agents.at_every_step(learner.updates[0]), state, sampled) == expected


def test_passes_of_curl_equal_counts_of_its_cycles():
    small, frozen, batch, latents = shapes_of("curl_sac")
    agent, config, actions = small.agent, small.config, agents.ACTION_SIZE
    size, hidden, latent = len(batch.reward), config.agent.hidden, config.agent.latent_size
    macs, actor = curl.make_networks(config, actions).macs(), 1 / 2  # the actor learns at every second update

    def mean_macs(learner, state, batch):
        updates = map(agents.at_every_step, learner.updates)
        return np.mean([flops.count_macs(update, state, batch) for update in updates])

    through_critic = actor * macs["critic"]  # to the action and no further
    pixels = 2 * (6 * 6) * 32 * (5 * 5 * 9)
    pairs = 2 * size * latent  # every anchor with every positive, and the anchors' gradient
    expected = flops.paper_macs(agent.full.passes(), size)
    expected += size * (pairs - through_critic - pixels - actor * macs["actor_dense"])
    assert mean_macs(agent.full, small.state, batch) == expected

    stored = 2 * (latent + actions) * hidden + actor * latent * hidden
    expected = flops.paper_macs(agent.frozen.passes(), size) - size * (through_critic + stored)
    assert mean_macs(agent.frozen, frozen, latents) == expected


@pytest.mark.parametrize("phase", ["full", "frozen"])
def test_xla_counts_our_products_and_up_to_a_third_more(phase):
    """The rest is done element by element: pixels to numbers, perturbed kernels, clipping, Adam."""
    _, agent = paper_agent()
    state = jax.eval_shape(agent.init, jax.random.PRNGKey(0))
    shape, dtype = ((32, 1, 576), jnp.float32) if phase == "frozen" else ((32, 84, 84, 4), jnp.uint8)
    obs, scalar = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((32,), jnp.float32)
    index = jax.ShapeDtypeStruct((32,), jnp.int32)
    batch = replay.Batch(
        obs=obs, action=index, reward=scalar, discount=scalar, next_obs=obs, weight=scalar, start=index
    )
    if phase == "frozen":
        state = jax.eval_shape(agent.freeze, state)
    (update,) = map(agents.at_every_step, getattr(agent, phase).updates)
    products = 2 * flops.count_macs(update, state, batch)
    assert 1 <= flops.xla_flops(jax.jit(update).lower(state, batch).compile()) / products < 4 / 3


def test_ledger_adds_costs_by_kind():
    ledger = flops.Ledger()
    ledger.add({"act": flops.Cost(2.0, 1.0), "encode": flops.Cost(20.0, 10.0)})
    ledger.add({"act": flops.Cost(2.0, 1.0) * 3})
    assert ledger.total == flops.Cost(28.0, 14.0)
    assert ledger.by_kind()["flops_act"] == 8.0
    assert ledger.by_kind()["macs_encode"] == 10.0
    assert ledger.by_kind()["macs_handover"] == 0.0
