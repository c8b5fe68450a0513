"""The handover: no row is lost or doubled, and memory never holds more than it must."""

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

from seer_jax import files, replay
from seer_jax.agents.registry import AGENTS
from seer_jax.envs.timestep import TimeStep
from seer_jax.run.assembly import Assembly
from seer_jax.seer import handover, phases
from seer_jax.seer.placement import Placement
from tests.helpers import agents
from tests.helpers.rings import build, observations, priorities_by_slot, random_rows, sample_at, sampleable_starts

SIZE = 30  # the smallest image that the data-efficient encoder reads
ROWS, CHUNK_ROWS = 80, 14  # of a ring of frames, and in transit at one time: several chunks and a remainder
CONFIG = agents.small_config(
    "rainbow",
    num_envs=2,
    env__image_size=SIZE,
    env__crop_size=SIZE,
    agent__discount=0.9,
    replay__capacity=ROWS,
    replay__grow_after_freeze=True,
)


@functools.cache
def make_agent():
    """One agent for all tests: programs are compiled again for another."""
    return AGENTS["rainbow"].make_agent(CONFIG, agents.ACTION_SPECS["rainbow"])


def make_phases(**changes):
    config = agents.replaced(CONFIG, **changes)
    assembly = Assembly(config, make_agent(), jax.ShapeDtypeStruct((config.num_envs,), np.int32), Placement())
    return assembly.full, assembly.frozen


@pytest.fixture(scope="module")
def state():
    return jax.jit(make_agent().init)(jax.random.PRNGKey(0))


def image_ring(written, *, num_envs=2, **changes):
    """Returns both phases, a ring with `written` times of frames, its twin, and the rows that would follow."""
    full, frozen = make_phases(num_envs=num_envs, **changes)
    rows = random_rows(np.random.default_rng(0), num_envs, (SIZE, SIZE, 1))
    ring, twin = build(full.ring_spec, rows, written, frame_shape=(SIZE, SIZE, 1))
    return full, frozen, ring, twin, rows


def freeze(full, frozen, state, ring, directory, **arguments):
    seeds = {0: handover.SeedFreeze(directory, jax.random.PRNGKey(0))}
    return handover.freeze(full, frozen, state, ring, seeds, **arguments)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(handover, "_CHUNK_ROWS", CHUNK_ROWS)


@pytest.mark.numeric
@pytest.mark.parametrize(("written", "first_stack"), [(25, "black"), (40, "black"), (93, "black"), (93, "repeat")])
def test_every_transition_becomes_the_encoding_of_itself(state, tmp_path, small_chunks, written, first_stack):
    full, frozen, ring, twin, _ = image_ring(written, env__first_stack=first_stack)
    expected, oldest = twin.transitions(), twin.oldest()
    frozen_state, latents = freeze(full, frozen, state, ring, tmp_path / "freeze")
    spec = frozen.ring_spec
    assert replay.size(spec, latents) == min(written, full.ring_spec.num_steps)
    moved = [(env, time - oldest) for env, time in expected]
    assert sampleable_starts(spec, latents) == set(moved)

    encode = jax.jit(make_agent().encode)
    for sample, transition in zip(sample_at(spec, latents, moved), expected.values(), strict=True):
        obs, action, reward, discount, next_obs = transition
        latent, next_latent = encode(frozen_state.params, jnp.stack([obs, next_obs]))
        np.testing.assert_allclose(sample.obs, latent, atol=1e-6)
        np.testing.assert_allclose(sample.next_obs, next_latent, atol=1e-6)
        assert sample.action == action
        np.testing.assert_allclose([sample.reward, sample.discount], [reward, discount], rtol=1e-5, atol=1e-5)


def test_new_rows_fill_the_larger_ring_before_they_overwrite(state, tmp_path):
    full, frozen, ring, twin, rows = image_ring(60)
    spec, moved_steps = frozen.ring_spec, full.ring_spec.num_steps
    assert spec.num_steps > moved_steps == 40
    _, latents = freeze(full, frozen, state, ring, tmp_path / "freeze")
    moved = np.asarray(latents.rows.reward[:moved_steps])
    np.testing.assert_array_equal(moved, [[lane[t]["reward"] for lane in twin.lanes] for t in range(20, 60)])
    add = jax.jit(functools.partial(replay.add, spec))
    for _, row in zip(range(spec.num_steps - moved_steps), rows, strict=False):
        latent_row = row.replace(observation=np.zeros(frozen.row.observation.shape, np.float32))
        latents = add(latents, latent_row)
    np.testing.assert_array_equal(latents.rows.reward[:moved_steps], moved)  # nothing is overwritten yet
    latents = add(latents, latent_row)
    assert not np.array_equal(latents.rows.reward[0], moved[0])
    np.testing.assert_array_equal(latents.rows.reward[1:moved_steps], moved[1:])


def test_priorities_move_with_their_rows(state, tmp_path):
    full, frozen, ring, *_ = image_ring(55, replay__prioritized=True)
    starts = jnp.flatnonzero(ring.index.priorities.ravel())
    ring = replay.update_priorities(full.ring_spec, ring, starts, jnp.arange(1.0, 1 + len(starts)))
    before, maximum = priorities_by_slot(full.ring_spec, ring), float(ring.index.max_priority)
    _, latents = freeze(full, frozen, state, ring, tmp_path / "freeze")
    after = priorities_by_slot(frozen.ring_spec, latents)
    np.testing.assert_array_equal(after[:40], np.roll(before, -55 % 40, axis=0))
    assert not after[40:].any()
    assert float(latents.index.max_priority) == maximum
    np.testing.assert_allclose(latents.index.sums[-1].sum(), before.sum(), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_latents_of_a_narrow_dtype_are_rounded_ones(state, tmp_path, dtype):
    def latents(name):
        full, frozen = make_phases(replay__latent_dtype=name)
        _, ring = freeze(full, frozen, state, image_ring(30)[2], tmp_path / name)
        return observations(frozen.ring_spec, ring)

    rounded, exact = latents(dtype), latents("float32")
    assert rounded.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(rounded, exact.astype(dtype))


def test_snapshot_holds_state_and_rows_and_the_frames_are_freed(state, tmp_path):
    full, frozen, ring, twin, _ = image_ring(55)
    freeze(full, frozen, state, ring, tmp_path / "freeze")
    assert all(array.is_deleted() for array in jax.tree.leaves(ring))
    chunks = list(files.ChunkStream(tmp_path / "freeze"))
    frames = np.concatenate([chunk["observation"] for chunk in chunks])
    expected = [[lane[t]["observation"] for lane in twin.lanes] for t in range(15, 55)]
    np.testing.assert_array_equal(frames, expected)
    saved = files.load_tree(tmp_path / "freeze")
    jax.tree.map(np.testing.assert_array_equal, saved["params"], state.params)
    assert set(saved["opt_state"]) == {"encoder", "tail", "heads"}


def fail_after(chunks, monkeypatch):
    """Lets the disk take some chunks of a snapshot and no more."""
    append, taken = files.ChunkStream.append, []

    def failing(stream, **arrays):
        if len(taken) == chunks:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken.append(append(stream, **arrays))

    monkeypatch.setattr(files.ChunkStream, "append", failing)


def test_full_disk_makes_the_same_latents_in_memory_and_warns(state, tmp_path, monkeypatch, small_chunks):
    full, frozen, ring, *_ = image_ring(55, replay__prioritized=True)
    expected = freeze(full, frozen, state, ring, tmp_path / "expected")
    fail_after(3, monkeypatch)
    ring, warnings = image_ring(55, replay__prioritized=True)[2], []
    result = freeze(full, frozen, state, ring, tmp_path / "freeze", memory_bytes=10**9, warn=warnings.append)
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    assert all(array.is_deleted() for array in jax.tree.leaves(ring))
    assert warnings == ["no snapshot of the frames (No space left on device); frames become latents in memory"]
    assert not (tmp_path / "freeze").exists()


def test_full_disk_without_memory_for_both_rings_raises_and_keeps_the_frames(state, tmp_path, monkeypatch):
    fail_after(0, monkeypatch)
    full, frozen, ring, *_ = image_ring(30)
    with pytest.raises(handover.HandoverError, match=r"No space left .* no memory for both rings .* free 0.0 GB"):
        freeze(full, frozen, state, ring, tmp_path / "freeze", memory_bytes=ring.num_bytes)
    assert not any(array.is_deleted() for array in jax.tree.leaves(ring))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pathlib.Path.unlink, r"holds 35 times .* 40 written"),
        (lambda path: path.write_bytes(b"PK"), r"rows-00005\.npz cannot be read"),
    ],
)
def test_snapshot_that_lost_rows_or_is_damaged_raises(state, tmp_path, monkeypatch, small_chunks, damage, message):
    full, frozen, ring, *_ = image_ring(55)
    write_snapshots = handover._write_snapshots

    def damaged(seeds, *args):
        write_snapshots(seeds, *args)
        damage(seeds[0].snapshot_dir / "rows-00005.npz")

    monkeypatch.setattr(handover, "_write_snapshots", damaged)
    with pytest.raises(handover.HandoverError, match=message):
        freeze(full, frozen, state, ring, tmp_path / "freeze")


@pytest.mark.numeric
def test_latents_stored_after_the_freeze_equal_those_moved_by_it(state, tmp_path):
    """The same time step, stored on either side of the freeze, is the same latent."""
    full, frozen, ring, twin, _ = image_ring(30, num_envs=1)
    frozen_state, latents = freeze(full, frozen, state, ring, tmp_path / "freeze")
    stack = jnp.asarray(twin.observation(0, 28))[None]
    row = twin.lanes[0][29]
    zero, false = np.zeros(1, np.float32), np.zeros(1, bool)
    step = TimeStep(row["observation"][None], zero, zero, false, false, false, false | row["first"])
    actor = phases.Actor(stack=stack, key=jax.random.PRNGKey(0), steps=jnp.int32(0))
    _, _, after = jax.jit(phases.make_interact(frozen))(frozen_state.params, actor, latents, step)
    *_, moved, stored = observations(frozen.ring_spec, after)
    np.testing.assert_allclose(stored, moved, atol=1e-6)


def test_augmented_copies_are_drawn_anew_for_every_row_and_chunk(tmp_path, small_chunks):
    """All frames are the same image: latents differ by their random crops alone."""
    small = agents.make("curl_sac", num_envs=2, replay__capacity=ROWS)
    assembly = Assembly(
        small.config, small.agent, jax.ShapeDtypeStruct((2, agents.ACTION_SIZE), np.float32), Placement()
    )
    full, frozen = assembly.full, assembly.frozen
    ring, image = full.init_ring(), agents.random_batch("curl_sac").obs[0, ..., :3]
    times = CHUNK_ROWS  # two chunks
    rows = jax.tree.map(lambda x: jnp.zeros((times, *x.shape), x.dtype), full.row)
    rows = rows.replace(observation=jnp.broadcast_to(image, rows.observation.shape))
    ring = replay.restore(full.ring_spec, replay.write(full.ring_spec, ring, 0, rows), 1.0, np.ones((times, 2)))
    _, latents = freeze(full, frozen, small.state, ring, tmp_path / "freeze")
    copies = observations(frozen.ring_spec, latents)[3:]  # their stacks hold no zeros: [M, E, K, N, L]
    assert copies.shape == (times - 3, 2, 4, 2, 6)
    distinct = {copy.tobytes() for copy in copies.reshape(-1, 12).round(4)}
    assert 15 < len(distinct) <= 25  # of 25 places of a crop
    assert not np.array_equal(copies[: times // 2 - 3], copies[times // 2 : times - 3])  # times of both chunks


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_of_the_handover_is_the_larger_ring_and_a_chunk():
    """40,000 frames (282 MB) become float32 latents (92 MB)."""
    command = [sys.executable, "-m", "experiments.benchmark.handover_memory", "40000"]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}  # 40,000 encodings
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    measured = json.loads(out)
    assert measured["larger_ring"] < measured["peak_above_base"] < measured["larger_ring"] + 80e6, measured
