"""The training state at the best evaluation of a run, kept beside its checkpoints for `evaluate --best`.

Each better evaluation adds a directory, named by its agent steps. The ones before it stay as long as a checkpoint
names them, for a run that resumes from it.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable

from seer_jax.agents import base
from seer_jax.run import checkpoint
from seer_jax.run.progress import Progress

DIRECTORY = "best"  # in the directory of a run


def keep_if_better(
    run_dir: pathlib.Path, progress: Progress, train: base.TrainState, warn: Callable[[str], None]
) -> None:
    """Keeps the training state if the last evaluation of `progress` is better than all before it, and notes it there.

    Args:
      run_dir: directory of the run.
      progress: counters of the run; its `best` is set.
      train: training state that was evaluated.
      warn: receives one line if it cannot be written; the best one before it stays.
    """
    found = {name: progress.evals[-1][name] for name in ("env_steps", "eval_return_mean")}
    if progress.best is not None and found["eval_return_mean"] <= progress.best["eval_return_mean"]:
        return
    try:
        checkpoint.save_state(directory(run_dir, found), progress=found, trees={"train": train})
    except OSError as error:
        warn(f"the best evaluation, after {found['env_steps']:,} steps, is not kept ({error.strerror})")
        return
    progress.best = found


def remove_unused(run_dir: pathlib.Path, progress: Progress) -> None:
    """Removes the states that neither `progress` nor a checkpoint before it names.

    Among them are those that a run kept after the checkpoint from which it resumes.
    """
    used = [progress.best]
    for path in checkpoint.numbered(run_dir / checkpoint.DIRECTORY):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged checkpoint names none
            earlier = json.loads((path / checkpoint.MANIFEST_FILE).read_text())["progress"]
            if earlier["env_steps"] <= progress.env_steps:
                used.append(earlier["best"])
    kept = [directory(run_dir, best) for best in used if best is not None]
    for path in checkpoint.numbered(run_dir / DIRECTORY):
        if path not in kept:
            checkpoint.remove(path)


def directory(run_dir: pathlib.Path, best: dict[str, float]) -> pathlib.Path:
    """Returns the directory of a state that was kept; `best` is that of the progress."""
    return run_dir / DIRECTORY / f"{int(best['env_steps']):09d}"
