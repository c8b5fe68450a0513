"""Checkpoints: written and restored, of earlier formats, damaged, of other shapes, and on a full disk."""

import dataclasses
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax import files, replay
from seer_jax.run import checkpoint, saved_ring
from tests.helpers.runs import contents

ADD = jax.jit(replay.add, static_argnums=0)
UPDATE = jax.jit(replay.update_priorities, static_argnums=0)
SAMPLE = jax.jit(replay.sample, static_argnums=0, static_argnames="batch_size")
LIKE = {"x": jax.ShapeDtypeStruct((3,), np.float32)}


def small_ring(times, dtype=jnp.bfloat16, num_steps=8):
    """A ring of 8 rows to which `times` rows were written; bfloat16 is unknown to NumPy's file format."""
    spec = replay.RingSpec(num_steps=num_steps, num_envs=1, stack=0, n_step=1, discount=0.9, prioritized=True)
    latents = jax.ShapeDtypeStruct((1, 2, 1, 3), dtype)
    row = replay.row_shapes(latents, jax.ShapeDtypeStruct((1,), np.int32))
    ring = replay.init(spec, row)
    for t in range(times):
        ring = add(spec, row, ring, t)
    return spec, row, ring


def add(spec, row, ring, t):
    """Adds a row that holds `t`, and gives it a priority of its own."""
    now = jax.tree.map(lambda x: jnp.full(x.shape, t, x.dtype), row)
    ring = ADD(spec, ring, now.replace(first=jnp.array([t == 0]), last=jnp.array([False])))
    slot = jnp.array([(t - 1) % spec.num_steps])
    return UPDATE(spec, ring, slot, jnp.array([0.1 + 1.7 * t])) if t else ring


def assert_rows_equal(spec, restored, other_spec, ring):
    """The rings hold the same rows, with the same priorities."""
    size, oldest = replay.size(other_spec, ring), replay.oldest(other_spec, ring)
    assert (replay.size(spec, restored), replay.oldest(spec, restored)) == (size, oldest)
    found, expected = (replay.read(*each, oldest, size) for each in ((spec, restored), (other_spec, ring)))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert not size or len(np.unique(expected[1])) > size / 2


def assert_rings_equal(spec, restored, ring):
    """The rings hold the same rows, with the same priorities, and go on in the same way."""
    jax.tree.map(np.testing.assert_array_equal, restored.index, ring.index)
    assert_rows_equal(spec, restored, spec, ring)
    key = jax.random.PRNGKey(0)
    batches = [SAMPLE(spec, each, key, batch_size=16) for each in (restored, ring)]
    jax.tree.map(np.testing.assert_array_equal, *batches)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("times", [0, 5, 8, 19])
def test_restored_ring_equals_the_saved_one(tmp_path, times, dtype):
    """Empty, in part full, full, and overwritten twice."""
    spec, row, ring = small_ring(times, dtype)
    x = np.arange(3, dtype=np.float32)
    saved = checkpoint.save(tmp_path, 1, progress={"env_steps": times}, trees={"x": x}, spec=spec, ring=ring)
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found == saved
    trees, restored = found.restore(LIKE, spec, row)
    np.testing.assert_array_equal(trees["x"], x)
    assert_rings_equal(spec, restored, ring)
    rows, _ = replay.read(spec, restored, 0, 1)
    assert rows.observation.dtype == dtype


def test_rows_of_a_checkpoint_are_in_the_order_of_time(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_ring, "_CHUNK_ROWS", 3)
    spec, _, ring = small_ring(19)
    saved = checkpoint.save(tmp_path, 1, progress={}, trees={}, spec=spec, ring=ring)
    chunks = [chunk["reward"].ravel().tolist() for chunk in files.ChunkStream(saved.directory)]
    assert chunks == [[11, 12, 13], [14, 15, 16], [17, 18]]
    assert json.loads((saved.directory / checkpoint.MANIFEST_FILE).read_text())["format"] == 3


@pytest.mark.parametrize("times", [5, 8])
def test_ring_that_overwrote_nothing_is_restored_into_a_larger_one(tmp_path, times):
    """As a run that goes on longer needs it: the rows keep their slots and their priorities."""
    spec, row, ring = small_ring(times)
    larger = dataclasses.replace(spec, num_steps=20)
    saved = checkpoint.save(tmp_path, 1, progress={}, trees={}, spec=spec, ring=ring)
    _, restored = saved.restore({}, larger, row)
    assert_rows_equal(larger, restored, spec, ring)
    from_the_start = small_ring(times, num_steps=20)[2]
    for t in range(times, 20):
        restored, from_the_start = add(larger, row, restored, t), add(larger, row, from_the_start, t)
    assert_rows_equal(larger, restored, larger, from_the_start)


def test_sums_of_many_priorities_are_restored_exactly(tmp_path):
    """They are computed anew from the priorities, in a ring of several blocks that was overwritten."""
    spec, row, ring = small_ring(300, num_steps=260)
    saved = checkpoint.save(tmp_path, 1, progress={}, trees={}, spec=spec, ring=ring)
    assert_rings_equal(spec, saved.restore({}, spec, row)[1], ring)


def test_ring_that_overwrote_rows_does_not_fit_into_a_larger_one(tmp_path):
    spec, row, ring = small_ring(9)
    saved = checkpoint.save(tmp_path, 1, progress={}, trees={}, spec=spec, ring=ring)
    with pytest.raises(files.DamagedFileError, match="holds 8 times of rows, not the 9 that were written"):
        saved.restore({}, dataclasses.replace(spec, num_steps=20), row)


@pytest.mark.parametrize("version", [1, 2])
def test_checkpoint_of_an_earlier_format_is_refused_in_one_line_but_its_state_is_read(tmp_path, version):
    spec, _, ring = small_ring(5)
    for number in (1, 2):
        saved = checkpoint.save(tmp_path, number, progress={}, trees={"x": np.ones(3)}, spec=spec, ring=ring)
        manifest = saved.directory / checkpoint.MANIFEST_FILE
        manifest.write_text(manifest.read_text().replace('"format": 3', f'"format": {version}'))
    with pytest.raises(
        checkpoint.CheckpointError, match=r"000002 was made by seer_jax 0\.2\.0 or earlier, .* start a new"
    ):
        checkpoint.newest(tmp_path, pytest.fail)
    np.testing.assert_array_equal(checkpoint.load_newest_state(tmp_path)[0]["x"], np.ones(3))


def test_manifest_in_which_a_number_changed_is_damaged(tmp_path):
    spec, _, ring = small_ring(5)
    for number in (1, 2):
        saved = checkpoint.save(tmp_path, number, progress={"env_steps": 123}, trees={}, spec=spec, ring=ring)
    manifest = saved.directory / checkpoint.MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace("123", "923"))
    warned = []
    assert checkpoint.newest(tmp_path, warned.append).directory == tmp_path / "000001"
    assert "000002 holds a damaged manifest.json" in warned[0]


def test_format_of_a_later_version_is_refused_by_its_number(tmp_path):
    spec, _, ring = small_ring(5)
    saved = checkpoint.save(tmp_path, 1, progress={}, trees={}, spec=spec, ring=ring)
    manifest = saved.directory / checkpoint.MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace('"format": 3', '"format": 4'))
    warned = []
    with pytest.raises(checkpoint.CheckpointError, match="can be read"):
        checkpoint.newest(tmp_path, warned.append)
    assert "has format 4, and this version reads 3 and earlier ones" in warned[0]


def test_state_of_other_shapes_or_parts_is_refused(tmp_path):
    spec, row, ring = small_ring(5)
    saved = checkpoint.save(tmp_path, 1, progress={}, trees={"x": np.zeros(3, np.float32)}, spec=spec, ring=ring)
    trees, _ = saved.restore(LIKE, spec, row)
    assert trees["x"].shape == (3,)
    for like in ({"x": jax.ShapeDtypeStruct((4,), np.float32)}, {"y": jax.ShapeDtypeStruct((3,), np.float32)}):
        with pytest.raises(files.DamagedFileError, match="saved state"):
            saved.restore(like, spec, row)


def test_rows_of_other_shapes_dtypes_or_number_are_refused(tmp_path):
    spec, row, ring = small_ring(5)
    saved = checkpoint.save(tmp_path, 1, progress={}, trees={}, spec=spec, ring=ring)
    wide, whole = (jax.ShapeDtypeStruct((1, 2, 1, size), dtype) for size, dtype in ((4, jnp.bfloat16), (3, np.float32)))
    for observation in (wide, whole):
        with pytest.raises(files.DamagedFileError, match="the saved rows do not fit: observation is"):
            saved.restore({}, spec, row.replace(observation=observation))
    rows = saved.directory / "rows-00000.npz"
    content = rows.read_bytes()
    rows.unlink()
    with pytest.raises(files.DamagedFileError, match="holds 0 times of rows, not the 5"):
        saved.restore({}, spec, row)
    for name in ("rows-00000.npz", "rows-00001.npz"):
        (saved.directory / name).write_bytes(content)
    with pytest.raises(files.DamagedFileError, match="the saved rows do not fit"):
        saved.restore({}, spec, row)


def test_only_the_newest_two_checkpoints_are_kept_and_no_leftovers(tmp_path):
    spec, _, ring = small_ring(5)
    (tmp_path / "000009.partial").mkdir()
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, number, progress={}, trees={}, spec=spec, ring=ring)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000003"]


def test_directory_without_checkpoints_has_none_and_no_state(tmp_path):
    assert checkpoint.newest(tmp_path, pytest.fail) is None
    with pytest.raises(checkpoint.CheckpointError, match="there is no checkpoint in"):
        checkpoint.load_newest_state(tmp_path)


def test_state_is_read_although_the_rows_are_damaged(tmp_path):
    spec, _, ring = small_ring(5)
    saved = checkpoint.save(tmp_path, 1, progress={"env_steps": 5}, trees={"x": np.ones(3)}, spec=spec, ring=ring)
    (saved.directory / "rows-00000.npz").write_bytes(b"damaged")
    trees, progress = checkpoint.load_newest_state(tmp_path)
    np.testing.assert_array_equal(trees["x"], np.ones(3))
    assert progress == {"env_steps": 5}
    with pytest.raises(checkpoint.CheckpointError, match="can be read"):
        checkpoint.newest(tmp_path, lambda message: None)


@pytest.fixture
def small_disk(monkeypatch, tmp_path):
    """A function that limits how many bytes of rows fit under `tmp_path`, by an error as of a full disk."""
    append, limit = files.ChunkStream.append, [np.inf]

    def limited(chunks, **arrays):
        append(chunks, **arrays)
        if sum(path.stat().st_size for path in tmp_path.rglob("rows-*")) > limit[0]:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.ChunkStream, "append", limited)
    return lambda bytes_of_rows: limit.__setitem__(0, bytes_of_rows)


def save_all(directory, numbers, **changes):
    """Saves a ring and `x`, filled with the number, as each of these checkpoints."""
    spec, _, ring = small_ring(5)
    for number in numbers:
        trees = {"x": np.full(3, number, np.float32)}
        checkpoint.save(directory, number, progress={"number": number}, trees=trees, spec=spec, ring=ring, **changes)


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_checkpoint_without_room_for_its_ring_keeps_its_state_and_the_newest_complete_one(tmp_path, small_disk):
    save_all(tmp_path, (1, 2))
    small_disk(0)
    with pytest.raises(checkpoint.StateOnlyError, match="No space left"):
        save_all(tmp_path, (3,))
    assert names_in(tmp_path) == ["000002", "000003-state"]
    trees, progress = checkpoint.load_newest_state(tmp_path)
    assert (trees["x"].tolist(), progress) == ([3.0, 3.0, 3.0], {"number": 3})
    warned = []
    assert checkpoint.newest(tmp_path, warned.append).progress == {"number": 2}
    (message,) = warned
    assert "000003-state holds no ring, for which the disk had no room; using the one before it" in message
    small_disk(np.inf)
    save_all(tmp_path, (3,))
    assert names_in(tmp_path) == ["000002", "000003"]


def test_state_is_written_where_the_operating_system_refuses_the_ring(tmp_path):
    """A limit on the size of files takes the disk's place."""
    spec, _, ring = small_ring(200, num_steps=200)
    checkpoint.save(tmp_path / "compiled", 1, progress={}, trees={}, spec=spec, ring=ring)
    tmp_path, limits = tmp_path / "full", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(checkpoint.StateOnlyError, match="File too large"):
            checkpoint.save(tmp_path, 1, progress={"number": 1}, trees={"x": np.ones(3)}, spec=spec, ring=ring)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    trees, progress = checkpoint.load_newest_state(tmp_path)
    assert (trees["x"].tolist(), progress) == ([1.0, 1.0, 1.0], {"number": 1})
    assert names_in(tmp_path) == ["000001-state"]


def test_older_checkpoint_gives_way_after_the_state_of_the_new_one_is_safe(tmp_path, small_disk, monkeypatch):
    save_all(tmp_path, (1, 2))
    small_disk(sum(path.stat().st_size for path in tmp_path.rglob("rows-*")))
    removed, remove = [], checkpoint.remove
    monkeypatch.setattr(
        checkpoint, "remove", lambda path: (removed.append((path.name, names_in(tmp_path))), remove(path))
    )
    save_all(tmp_path, (3,))
    assert removed == [
        ("000001", ["000001", "000002", "000003-state"]),
        ("000003-state", ["000002", "000003", "000003-state"]),
    ]
    assert checkpoint.newest(tmp_path, pytest.fail).progress == {"number": 3}


def test_state_that_does_not_fit_leaves_earlier_checkpoints_intact(tmp_path, monkeypatch):
    save_all(tmp_path, (1, 2))
    before = contents(tmp_path)

    def failing(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_file", failing)
    with pytest.raises(OSError, match="No space left") as raised:
        save_all(tmp_path, (3,))
    assert not isinstance(raised.value, checkpoint.StateOnlyError)
    assert contents(tmp_path) == before


def test_state_alone_cannot_be_resumed_from(tmp_path, small_disk):
    small_disk(0)
    with pytest.raises(checkpoint.StateOnlyError):
        save_all(tmp_path, (1,))
    assert checkpoint.load_newest_state(tmp_path)[1] == {"number": 1}
    with pytest.raises(checkpoint.CheckpointError, match=r"000001-state holds no ring, .* no earlier checkpoint"):
        checkpoint.newest(tmp_path, pytest.fail)


@pytest.mark.parametrize("kept", [1, 3])
def test_as_many_checkpoints_are_kept_as_asked_for(tmp_path, kept):
    save_all(tmp_path, range(1, 6), kept=kept)
    assert names_in(tmp_path) == ["000003", "000004", "000005"][-kept:]


def test_newest_of_a_million_checkpoints_is_the_one_of_the_highest_number(tmp_path):
    save_all(tmp_path, (999_999, 1_000_000, 1_000_001))
    assert names_in(tmp_path) == ["1000000", "1000001"]
    assert checkpoint.newest(tmp_path, pytest.fail).progress == {"number": 1_000_001}


def test_checksum_of_parameters_depends_on_values_names_shapes_and_dtypes():
    params = {"a": np.arange(6, dtype=np.float32)}
    others = [
        {"a": np.arange(6, dtype=np.float32) + np.float32(1e-6)},
        {"b": params["a"]},
        {"a": params["a"].reshape(2, 3)},
        {"a": params["a"].view(np.int32)},
    ]
    checksums = [checkpoint.params_sha256(each) for each in (params, *others)]
    assert len(set(checksums)) == len(checksums)
    assert checkpoint.params_sha256(jax.tree.map(jnp.asarray, params)) == checksums[0]
