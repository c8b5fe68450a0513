"""A ring that is spread over devices, and updates on its batches, against the same on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax import replay
from seer_jax.run import assembly
from seer_jax.seer.placement import Placement, make_placement
from tests.helpers import agents
from tests.helpers.rings import empty_ring, random_rows
from tests.mesh import DEVICES, needs_devices

pytestmark = needs_devices()
LANES = 2  # environments on each device
WHOLE = replay.RingSpec(
    num_steps=12, num_envs=LANES * DEVICES, stack=2, n_step=3, discount=0.9, prioritized=True, num_shards=DEVICES
)


def lanes_of(device, tree, axis=0):
    """Returns the part of arrays `[E, ...]` that belongs to a device."""
    return jax.tree.map(lambda x: np.take(x, np.arange(device * LANES, (device + 1) * LANES), axis), tree)


@pytest.fixture(scope="module")
def spread():
    """A ring on eight devices that was filled and overwritten, with priorities, and eight rings with the same lanes."""
    place = make_placement(agents.small_config("rainbow", mesh__data=DEVICES))
    sharding = place.sharding(lanes=True)
    shapes = jax.eval_shape(lambda: empty_ring(WHOLE))
    ring = jax.jit(lambda: empty_ring(WHOLE), out_shardings=sharding)()
    assert shapes == jax.eval_shape(lambda: ring)
    alone = [empty_ring(WHOLE.of_shard) for _ in range(DEVICES)]
    rng = np.random.default_rng(0)
    with place.context():
        add, update = (jax.jit(functools.partial(fn, WHOLE)) for fn in (replay.add, replay.update_priorities))
        add_alone = jax.jit(functools.partial(replay.add, WHOLE.of_shard))
        update_alone = jax.jit(functools.partial(replay.update_priorities, WHOLE.of_shard))
        for t, row in zip(range(20), random_rows(rng, WHOLE.num_envs), strict=False):
            ring = add(ring, row)
            alone = [add_alone(each, lanes_of(d, row)) for d, each in enumerate(alone)]
            if t % 3 == 2:
                start = rng.integers(0, WHOLE.of_shard.capacity, 4 * DEVICES).astype(np.int32)
                loss = rng.exponential(size=4 * DEVICES).astype(np.float32)
                ring = update(ring, start, loss)
                parts = zip(alone, np.split(start, DEVICES), np.split(loss, DEVICES), strict=True)
                alone = [update_alone(*part) for part in parts]
                highest = max(float(each.index.max_priority) for each in alone)
                alone = [each.replace(index=each.index.replace(max_priority=jnp.float32(highest))) for each in alone]
    return place, ring, alone


def test_each_device_holds_the_ring_of_its_environments(spread):
    _, ring, alone = spread
    for d, each in enumerate(alone):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[d], y), ring, each)  # noqa: B023


def test_each_device_draws_its_share_of_a_batch_with_a_key_of_its_own(spread):
    place, ring, alone = spread
    key, size = jax.random.PRNGKey(3), 4 * DEVICES
    with place.context():
        sample = jax.jit(functools.partial(replay.sample, WHOLE, batch_size=size, importance_exponent=0.7))
        batch = sample(ring, key)
    assert {shard.data.shape[0] for shard in batch.obs.addressable_shards} == {4}
    chances = []
    for d, each in enumerate(alone):
        mine = replay.sample(WHOLE.of_shard, each, jax.random.fold_in(key, d), batch_size=4)
        for name in ("obs", "action", "reward", "discount", "next_obs", "start"):
            found = np.split(np.asarray(getattr(batch, name)), DEVICES)[d]
            np.testing.assert_allclose(found, getattr(mine, name), rtol=1e-6)
        priorities = np.asarray(each.index.priorities).ravel()
        chances.append(priorities[mine.start] / priorities.sum() / DEVICES)
    weights = np.concatenate(chances) ** -0.7
    np.testing.assert_allclose(batch.weight, weights / weights.max(), rtol=1e-4)


@pytest.mark.parametrize("phase", ["full", "frozen"])
@pytest.mark.parametrize("name", ["rainbow", "curl_sac"])
def test_gradients_of_a_batch_on_eight_devices_are_those_on_one(name, phase):
    """XLA sums them: the update is the same function of the same batch, contrasts between all its rows included."""
    small = agents.make(name)
    batch = agents.random_batch(name, size=16)
    state = small.state
    if phase == "frozen":
        batch, state = agents.encoded(small.agent, state.params, batch), small.agent.freeze(state)
    place = make_placement(agents.small_config(name, mesh__data=DEVICES))
    spread_batch, same_state = place.move(batch, lanes=True), place.move(state, lanes=False)
    assert len(spread_batch.obs.addressable_shards[0].data) == 2
    for update in map(agents.at_every_step, getattr(small.agent, phase).updates):
        alone, *_ = jax.jit(update)(state, batch)
        with place.context():
            together, _, info = jax.jit(update)(same_state, spread_batch)
        found, expected = (agents.gradients(state, each) for each in (jax.device_get(together), alone))
        agents.assert_gradients_equal(found, expected, rtol=1e-5)
        assert np.isfinite(float(info["loss"]))


def assembled(placement, num_envs=DEVICES):
    config = agents.small_config(
        "rainbow", num_envs=num_envs, mesh__data=placement.num_shards, agent__batch_size=32, replay__capacity=800
    )
    actions = jax.ShapeDtypeStruct((num_envs,), np.int32)
    return assembly.Assembly(config, agents.make("rainbow").agent, actions, placement)


def test_each_device_holds_an_eighth_of_the_ring():
    parts = assembled(make_placement(agents.small_config("rainbow", mesh__data=DEVICES)))
    for phase in (parts.full, parts.frozen):
        for x in jax.tree.leaves(phase.init_ring()):
            assert {shard.data.nbytes for shard in x.addressable_shards} == {x.nbytes // DEVICES}
            assert len({shard.device for shard in x.addressable_shards}) == DEVICES


def test_programs_of_eight_devices_have_an_eighth_of_the_work_of_one():
    flops = {}
    for placement in (make_placement(agents.small_config("rainbow", mesh__data=DEVICES)), Placement()):
        jitted = assembled(placement).full.jit("cpu")
        with placement.context():
            compiled = jitted.learn.lower(*jitted.learn_arguments).compile()
        flops[placement.num_shards] = compiled.cost_analysis()["flops"]
        assert ("all-reduce" in compiled.as_text()) == (placement.num_shards > 1)
    assert flops[DEVICES] < 0.4 * flops[1]
