"""Files that hold arrays: complete or absent, in order, and never a reason to run code."""

import os
import pathlib
import pickle

import jax
import numpy as np
import pytest

from seer_jax import files


class Bomb:
    """Pickled, it touches a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_written_file_replaces_an_earlier_one(tmp_path):
    for content in (b"one", b"two"):
        files.write_file(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_file_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    files.write_file(tmp_path / "file", b"one")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_file(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one"


def test_tree_is_read_back_as_it_was_saved(tmp_path):
    tree = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": [np.int32(4), np.zeros(0)]}
    files.save_tree(tmp_path / "tree", tree)
    fitted = files.fit_tree(jax.tree.map(np.asarray, tree), files.load_tree(tmp_path / "tree"))
    jax.tree.map(np.testing.assert_array_equal, fitted, tree)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"a": np.zeros(4, np.float32)}, r"does not fit: it holds \['a'\] float32\[4\] instead of float32\[3\]"),
        ({"a": np.zeros(3, np.int32)}, r"does not fit: it holds \['a'\] int32\[3\] instead of float32\[3\]"),
        ({"b": np.zeros(3, np.float32)}, "has other parts"),
        ({}, "has other parts"),
    ],
)
def test_tree_of_another_structure_shape_or_dtype_is_refused(saved, message):
    with pytest.raises(files.DamagedFileError, match=message):
        files.fit_tree({"a": jax.ShapeDtypeStruct((3,), np.float32)}, saved)


@pytest.mark.parametrize("content", [None, b"", b"garbage", "a bomb"])
def test_tree_that_cannot_be_read_raises_one_error_and_runs_no_code(tmp_path, content):
    if content is not None:
        content = pickle.dumps(Bomb(tmp_path / "proof")) if content == "a bomb" else content
        (tmp_path / files.TREE_FILE).write_bytes(content)
    with pytest.raises(files.DamagedFileError, match=r"state\.msgpack cannot be read"):
        files.load_tree(tmp_path)
    assert not (tmp_path / "proof").exists()


def test_chunks_are_read_back_in_the_order_in_which_they_were_written(tmp_path):
    written = files.ChunkStream(tmp_path / "chunks")
    for i in range(12):
        written.append(rows=np.full(2, i), first=np.array([i == 0]))
    found = list(files.ChunkStream(tmp_path / "chunks"))
    assert [chunk["rows"].tolist() for chunk in found] == [[i, i] for i in range(12)]
    assert [bool(chunk["first"][0]) for chunk in found] == [True] + 11 * [False]
    assert all(path.suffix == ".npz" for path in (tmp_path / "chunks").iterdir())


def test_damaged_chunk_raises_when_it_is_reached_and_runs_no_code(tmp_path):
    chunks = files.ChunkStream(tmp_path)
    chunks.append(rows=np.zeros(2))
    chunks.append(rows=np.zeros(2))
    with (tmp_path / "rows-00001.npz").open("wb") as f:
        np.savez(f, rows=np.array([Bomb(tmp_path / "proof")], object), allow_pickle=True)
    read = iter(chunks)
    assert next(read)["rows"].tolist() == [0.0, 0.0]
    with pytest.raises(files.DamagedFileError, match=r"rows-00001\.npz cannot be read"):
        next(read)
    assert not (tmp_path / "proof").exists()


def test_checksum_changes_with_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert files.checksum(tmp_path / "a") != files.checksum(tmp_path / "b")
    assert files.checksum(tmp_path / "a") == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
