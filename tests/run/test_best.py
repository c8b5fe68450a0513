"""The training state at the best evaluation: which one is kept, and for how long."""

import numpy as np
import pytest

from seer_jax import replay
from seer_jax.run import best, checkpoint
from seer_jax.run.progress import Progress
from tests.helpers.rings import alone


def evaluate(run_dir, progress, env_steps, score, warn=pytest.fail):
    """Does what a run does after an evaluation; the training state holds the score."""
    progress.env_steps = env_steps
    progress.evals = [*progress.evals[:1], {"env_steps": env_steps, "eval_return_mean": score}]
    best.keep_if_better(run_dir, progress, {"x": np.float32(score)}, warn)


def save(run_dir, progress, number):
    spec = replay.RingSpec(num_steps=8, num_envs=1, stack=0, n_step=1, discount=0.9)
    row = replay.row_shapes(np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.int32))
    ring = replay.init(spec, row)
    checkpoint.save(run_dir / "checkpoints", number, progress=progress.to_json(), trees={}, ring=alone(spec, ring))
    best.remove_unused(run_dir, progress)


def kept(run_dir):
    return [int(path.name) for path in checkpoint.numbered(run_dir / best.DIRECTORY)]


def test_best_of_several_evaluations_is_kept_and_the_first_of_equal_ones(tmp_path):
    progress = Progress()
    for i, score in enumerate([-3.0, -1.0, -2.0, -1.0]):
        evaluate(tmp_path, progress, 10 * i, score)
    best.remove_unused(tmp_path, progress)
    assert kept(tmp_path) == [10]
    assert progress.best == {"env_steps": 10, "eval_return_mean": -1.0}
    trees, found = checkpoint.load_newest_state(tmp_path / best.DIRECTORY)
    assert (float(trees["train"]["x"]), found) == (-1.0, progress.best)


def test_states_stay_as_long_as_a_checkpoint_names_them(tmp_path):
    progress = Progress()
    for number, names in enumerate([[1], [1, 2], [2, 3], [3, 4]], start=1):
        evaluate(tmp_path, progress, number, float(number))
        save(tmp_path, progress, number)
        assert kept(tmp_path) == names


def test_resumed_run_drops_what_it_kept_after_its_checkpoint(tmp_path):
    """The newer checkpoint is damaged, and names the state to drop."""
    progress = Progress()
    evaluate(tmp_path, progress, 10, 1.0)
    save(tmp_path, progress, 1)
    earlier = progress.to_json()
    evaluate(tmp_path, progress, 20, 2.0)
    save(tmp_path, progress, 2)
    best.remove_unused(tmp_path, Progress.from_json(earlier))
    assert kept(tmp_path) == [10]


def test_state_that_cannot_be_written_leaves_the_best_before_it(tmp_path, monkeypatch):
    progress, warned = Progress(), []
    evaluate(tmp_path, progress, 10, 1.0)

    def failing(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", failing)
        evaluate(tmp_path, progress, 20, 3.0, warned.append)
    assert warned == ["the best evaluation, after 20 steps, is not kept (No space left on device)"]
    assert progress.best == {"env_steps": 10, "eval_return_mean": 1.0}
    evaluate(tmp_path, progress, 30, 2.0)
    assert progress.best == {"env_steps": 30, "eval_return_mean": 2.0}
