"""The handover: nothing lost, nothing doubled, nothing larger than it must be."""

import dataclasses
import errno
import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from configs import rainbow_atari
from seer_jax import replay
from seer_jax.agents import rainbow
from seer_jax.run import checkpoint
from seer_jax.seer import handover, phases
from tests import test_replay

SIZE = 30  # the smallest image that the data-efficient encoder reads


@pytest.fixture(scope="module")
def agent():
    config = rainbow_atari.get_config().unlock()
    config.env.image_size = config.env.crop_size = SIZE
    config.agent.hidden, config.seer.freeze_through = 8, "conv2"
    return rainbow.make_agent(config, specs.DiscreteArray(3))


@pytest.fixture(scope="module")
def state(agent):
    return jax.jit(agent.init)(jax.random.PRNGKey(0))


def image_ring(rows_written, *, num_envs=2, num_steps=40, prioritized=False):
    spec = replay.RingSpec(
        num_steps=num_steps, num_envs=num_envs, stack=4, n_step=3, discount=0.9, prioritized=prioritized
    )
    rows = test_replay.random_rows(np.random.default_rng(0), num_envs, (SIZE, SIZE, 1))
    ring, naive = test_replay.build(spec, rows, rows_written, frame_shape=(SIZE, SIZE, 1))
    return spec, ring, naive, rows


def freeze(agent, state, spec, ring, directory, capacity=200, latent_dtype="float32", **arguments):
    latent_spec = dataclasses.replace(spec, num_steps=capacity // spec.num_envs, stack=0)
    stack = jax.ShapeDtypeStruct((spec.num_envs, SIZE, SIZE, 4), jnp.uint8)
    actions = jax.ShapeDtypeStruct((spec.num_envs,), jnp.int32)
    frozen, latents = handover.freeze(
        agent,
        state,
        spec,
        ring,
        latent_spec=latent_spec,
        latent_rows=handover.latent_rows(agent, state.params, stack, actions, latent_dtype),
        snapshot_dir=directory,
        key=jax.random.PRNGKey(0),
        **arguments,
    )
    return frozen, latent_spec, latents


@pytest.mark.parametrize("written", [25, 40, 93])
def test_every_transition_is_the_encoding_of_what_it_was(agent, state, tmp_path, monkeypatch, written):
    monkeypatch.setattr(handover, "_CHUNK_ROWS", 14)  # several chunks and a remainder
    spec, ring, naive, _ = image_ring(written)
    expected = naive.transitions()
    oldest = naive.oldest()
    frozen, latent_spec, latents = freeze(agent, state, spec, ring, tmp_path / "freeze")
    assert int(latents.written) == min(written, spec.num_steps)
    moved = {(env, time - oldest) for env, time in expected}
    assert test_replay.sampleable_starts(latent_spec, latents) == moved

    encode = jax.jit(agent.encode)
    got = test_replay.sample_at(latent_spec, latents, [(env, time - oldest) for env, time in expected])
    for sample, (obs, action, reward, discount, next_obs) in zip(got, expected.values(), strict=True):
        stacks = jnp.stack([obs, next_obs])
        want = encode(frozen.params, stacks)
        np.testing.assert_allclose(sample.obs, want[0], atol=1e-6)
        np.testing.assert_allclose(sample.next_obs, want[1], atol=1e-6)
        assert sample.action == action
        np.testing.assert_allclose([sample.reward, sample.discount], [reward, discount], rtol=1e-5)


def test_growth_fills_new_space_before_it_overwrites(agent, state, tmp_path):
    spec, ring, naive, rows = image_ring(60)
    _, latent_spec, latents = freeze(agent, state, spec, ring, tmp_path / "freeze", capacity=2 * 100)
    moved = np.asarray(latents.rows.reward[:40])
    np.testing.assert_array_equal(moved, [[lane[t]["reward"] for lane in naive.lanes] for t in range(20, 60)])
    add = jax.jit(functools.partial(replay.add, latent_spec))
    for _, row in zip(range(60), rows, strict=False):
        latent_row = row.replace(observation=np.zeros((2, 1, 1, latents.rows.observation.shape[-1]), np.float32))
        latents = add(latents, latent_row)
    np.testing.assert_array_equal(latents.rows.reward[:40], moved)  # 100 times fit: nothing is overwritten yet
    latents = add(latents, latent_row)
    assert not np.array_equal(latents.rows.reward[0], moved[0])
    np.testing.assert_array_equal(latents.rows.reward[1:40], moved[1:])


def test_priorities_move_with_their_rows(agent, state, tmp_path):
    spec, ring, _, _ = image_ring(55, prioritized=True)
    starts = jnp.flatnonzero(ring.priorities.ravel())
    ring = replay.update_priorities(spec, ring, starts, jnp.arange(1.0, 1 + len(starts)))
    before = np.asarray(ring.priorities).ravel()[: spec.capacity].reshape(40, 2)
    greatest = float(ring.max_priority)
    _, latent_spec, latents = freeze(agent, state, spec, ring, tmp_path / "freeze")
    after = np.asarray(latents.priorities).ravel()[: latent_spec.capacity].reshape(-1, 2)
    np.testing.assert_array_equal(after[:40], np.roll(before, -55 % 40, axis=0))
    assert not after[40:].any()
    assert float(latents.max_priority) == greatest
    np.testing.assert_allclose(latents.block_sums.sum(), before.sum(), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_latents_are_the_rounded_ones(agent, state, tmp_path, dtype):
    wide = freeze(agent, state, *image_ring(30)[:2], tmp_path / "wide")[2]
    narrow = freeze(agent, state, *image_ring(30)[:2], tmp_path / "narrow", latent_dtype=dtype)[2]
    assert narrow.rows.observation.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(narrow.rows.observation, wide.rows.observation.astype(dtype))


def test_snapshot_holds_the_state_and_every_row_and_the_frames_are_freed(agent, state, tmp_path):
    spec, ring, naive, _ = image_ring(55)
    freeze(agent, state, spec, ring, tmp_path / "freeze")
    assert all(array.is_deleted() for array in jax.tree.leaves(ring))
    chunks = list(checkpoint.ChunkStream(tmp_path / "freeze"))
    frames = np.concatenate([chunk["observation"] for chunk in chunks])
    expected = [[lane[t]["observation"] for lane in naive.lanes] for t in range(15, 55)]
    np.testing.assert_array_equal(frames, expected)
    saved = checkpoint.load_state(tmp_path / "freeze")
    jax.tree.map(np.testing.assert_array_equal, saved["params"], state.params)
    assert set(saved["opt_state"]) == {"encoder", "tail", "heads"}


def full_disk(chunks, monkeypatch):
    """Lets the disk take some chunks of a snapshot and no more."""
    append, taken = checkpoint.ChunkStream.append, []

    def failing(stream, **arrays):
        if len(taken) == chunks:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken.append(append(stream, **arrays))

    monkeypatch.setattr(checkpoint.ChunkStream, "append", failing)


def test_without_room_on_disk_the_same_latents_are_made_in_memory(agent, state, tmp_path, monkeypatch):
    monkeypatch.setattr(handover, "_CHUNK_ROWS", 14)
    expected = freeze(agent, state, *image_ring(55, prioritized=True)[:2], tmp_path / "expected")
    full_disk(3, monkeypatch)
    spec, ring, _, _ = image_ring(55, prioritized=True)
    told = []
    got = freeze(agent, state, spec, ring, tmp_path / "freeze", memory_bytes=10**9, warn=told.append)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert all(array.is_deleted() for array in jax.tree.leaves(ring))
    assert told == ["no snapshot of the frames (No space left on device); frames become latents in memory"]
    assert not (tmp_path / "freeze").exists()


def test_without_room_on_disk_nor_in_memory_the_frames_stay(agent, state, tmp_path, monkeypatch):
    full_disk(0, monkeypatch)
    spec, ring, _, _ = image_ring(30)
    with pytest.raises(handover.HandoverError, match=r"No space left .* no memory for both rings .* make room"):
        freeze(agent, state, spec, ring, tmp_path / "freeze", memory_bytes=ring.num_bytes)
    assert not any(array.is_deleted() for array in jax.tree.leaves(ring))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pathlib.Path.unlink, r"holds 35 times .* 40 written"),
        (lambda path: path.write_bytes(b"PK"), r"rows-00005\.npz cannot be read"),
    ],
)
def test_a_snapshot_that_is_gone_or_damaged_is_noticed(agent, state, tmp_path, monkeypatch, damage, message):
    monkeypatch.setattr(handover, "_CHUNK_ROWS", 14)
    spec, ring, _, _ = image_ring(55)
    through_disk = handover._through_disk

    def damaged(directory, *args):
        chunks = through_disk(directory, *args)
        damage(directory / "rows-00005.npz")
        return chunks

    monkeypatch.setattr(handover, "_through_disk", damaged)
    with pytest.raises(handover.HandoverError, match=message):
        freeze(agent, state, spec, ring, tmp_path / "freeze")


def test_latents_stored_after_the_freeze_continue_those_moved_by_it(agent, state, tmp_path):
    """The same time step, stored by either side of the freeze, is the same latent."""
    spec, ring, naive, _ = image_ring(30, num_envs=1)
    frozen, latent_spec, latents = freeze(agent, state, spec, ring, tmp_path / "freeze")
    stack = jnp.asarray(naive.observation(0, 28))[None]
    row = naive.lanes[0][29]
    zero, false = np.zeros(1, np.float32), np.zeros(1, bool)
    step = phases.TimeStep(row["observation"][None], zero, zero, false, false, false, false | row["first"])
    actor = phases.Actor(stack=stack, key=jax.random.PRNGKey(0), steps=jnp.int32(0))
    interact = jax.jit(phases.make_interact(agent, latent_spec, phases.FROZEN))
    _, _, after = interact(frozen.params, actor, latents, step)
    np.testing.assert_allclose(after.rows.observation[30], after.rows.observation[29], atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "dtype", "capacity", "expected"),
    [
        ("data_efficient", "float32", 10_000, 30_625),
        ("data_efficient", "bfloat16", 10_000, 61_250),
        ("canonical", "float32", 10_000, 5_625),
        ("canonical", "float16", 10_000, 11_250),
    ],
)
def test_capacity_formula(encoder, dtype, capacity, expected):
    config = rainbow_atari.get_config().unlock()
    config.encoder.name, config.replay.latent_dtype, config.replay.capacity = encoder, dtype, capacity
    config.seer.freeze_through = rainbow.stage_names(config)[-1]
    assert handover.capacity_in_same_bytes(config) == expected
    assert handover.frozen_capacity(config) == capacity
    config.replay.grow_after_freeze = True
    assert handover.frozen_capacity(config) == max(capacity, expected)


def test_image_ring_has_no_more_rows_than_the_run_can_fill():
    config = rainbow_atari.get_config().unlock()
    assert handover.full_capacity(config) == 2 * 50_000 + 27
    config.seer.enabled = False
    assert handover.full_capacity(config) == 500_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_during_the_handover_is_the_larger_ring():
    """40,000 frames (282 MB) become float32 latents (92 MB): the peak stays at the frames plus a chunk."""
    command = [sys.executable, "-m", "experiments.benchmark.handover_memory", "40000"]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}  # 40,000 encodings
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    measured = json.loads(out)
    assert measured["larger_ring"] < measured["peak_above_base"] < measured["larger_ring"] + 80e6, measured
