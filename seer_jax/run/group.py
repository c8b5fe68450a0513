"""The directory of a run of several seeds, with one directory for each of them: how it starts and goes on.

The directory of a seed is that of a run of this seed alone, and can be used as one. A run of one seed has only one.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from seer_jax.config import MAX_SEEDS, RunConfig
from seer_jax.fields import ConfigError
from seer_jax.run import checkpoint, continuation, fork, lock, run_dir
from seer_jax.run.seed import configs_of, directories_of


def seeds_in(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the directories of the seeds of a run of several, which may be missing; none for any other directory."""
    try:
        values = run_dir.read_config(directory).to_dict()
    except ConfigError:
        return []
    first, count = values.get("seed"), values.get("num_seeds", 1)
    if not isinstance(first, int) or not isinstance(count, int) or not 1 < count <= MAX_SEEDS:
        return []
    return [directory / f"seed-{seed}" for seed in range(first, first + count)]


def name_seeds(seeds: Sequence[pathlib.Path]) -> str:
    """Returns what to say about the directory of a run of several seeds where that of one is needed."""
    names = ", ".join(path.name for path in seeds)
    return f"holds a run of {len(seeds)} seeds; name the directory of one of them: {names}"


@contextlib.contextmanager
def hold(
    directory: pathlib.Path, config: RunConfig, *, resume: bool, warn: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Locks the directories of a run and of its seeds, as `lock.hold` does, and yields the check of all of them."""
    with contextlib.ExitStack() as locks:
        checks = [locks.enter_context(lock.hold(directory, warn))]
        if config.num_seeds > 1:
            if not resume:
                run_dir.check_empty(directory)
            checks += [locks.enter_context(lock.hold(each, warn)) for each in directories_of(config, directory)]

        def check() -> None:
            for each in checks:
                each()

        yield check


def start(
    config: RunConfig,
    directory: pathlib.Path,
    arguments: Sequence[str],
    *,
    resume: bool,
    trunk: Sequence[checkpoint.Checkpoint] | None = None,
) -> None:
    """Writes the configurations and the manifests of a run and of its seeds, and what forks begin with.

    Args:
      config: the configuration.
      directory: directory of the run.
      arguments: arguments of the command line that gave the configuration, if there was one.
      resume: whether a start that was interrupted may be there.
      trunk: the checkpoint of each seed that a fork begins with; None for a run that is no fork.

    Raises:
      ConfigError: there is something else already, or it cannot be written.
    """
    seeds = {path: seed for seed, path in zip(configs_of(config), directories_of(config, directory), strict=True)}
    begins = dict(zip(seeds, trunk, strict=True)) if trunk else {}
    seeds.pop(directory, None)
    interrupted = [path for path in (directory, *seeds) if resume and fork.is_interrupted(path)]
    for path in (directory, *seeds):
        started = run_dir.START_FILES if resume or path in seeds else ()
        forked = fork.FILES if path in interrupted else ()
        names = [each.name for each in seeds] if path == directory else []
        run_dir.check_empty(path, apart_from=[*names, *started, *forked])
    for path in interrupted:
        fork.clear(path)
    if resume:
        run_dir.clear_unstarted(directory)
    try:
        # The run itself last: with its files all seeds have theirs.
        for path, values in [*seeds.items(), (directory, config)]:
            if saved := begins.get(path):
                fork.start(values, path, arguments, saved)
            else:
                run_dir.start(values, path, arguments)
    except ConfigError:
        for path in (*seeds, directory):
            with contextlib.suppress(OSError):
                if path in begins:
                    fork.clear(path)
                run_dir.clear_start(path)
        raise


def find_checkpoints(
    config: RunConfig, directory: pathlib.Path, changed: run_dir.Differences, warn: Callable[[str], None]
) -> list[checkpoint.Checkpoint | None] | None:
    """Returns each seed's checkpoint to go on from; None if the run never wrote any and starts anew.

    A run of several seeds goes on from the newest checkpoint that all of them have. A seed that stopped for good has
    None in the list.

    Args:
      config: the configuration to go on with.
      directory: directory of the run.
      changed: from `continuation.changes`.
      warn: receives one line about each newer checkpoint that cannot be used, or about a new start.

    Raises:
      CheckpointError: there were checkpoints, and none of them can be used.
      ConfigError: the run, or a seed alone, has gone on past `total_steps`.
    """
    if config.num_seeds == 1:
        saved = continuation.find_checkpoint(directory, changed, warn)
        return None if saved is None else [saved]
    going_on = going_on_in(config, directory)
    _check_gone_alone(config, changed, going_on)
    found = _newest_of_all(directory, list(going_on), warn)
    if found is None:
        for path in going_on:
            if not checkpoint.numbers(path / checkpoint.DIRECTORY):
                continuation.find_checkpoint(path, changed, warn)
        return None
    for path, saved in zip(going_on, found, strict=True):
        continuation.check_total_steps(path, saved, changed)
    by_path = dict(zip(going_on, found, strict=True))
    return [by_path.get(path) for path in directories_of(config, directory)]


def going_on_in(config: RunConfig, directory: pathlib.Path) -> dict[pathlib.Path, RunConfig]:
    """Returns the directories and configurations of the seeds that have not stopped for good."""
    stopped = run_dir.stopped_seeds(directory)
    seeds = zip(configs_of(config), directories_of(config, directory), strict=True)
    return {path: seed for seed, path in seeds if seed.seed not in stopped}


def record_changes(
    config: RunConfig, directory: pathlib.Path, *, env_steps: Mapping[pathlib.Path, int], arguments: Sequence[str]
) -> run_dir.Differences:
    """Makes a configuration that of a run in a directory and of its seeds, as `continuation.record_changes` does.

    An interruption may have come between the files: those of each directory are compared with the configuration.

    Args:
      config: the configuration from now on.
      directory: directory of the run.
      env_steps: agent steps at which it changes, by directory of a seed that goes on.
      arguments: arguments of the command line that gave it, if there was one.

    Returns:
      The changes of the run, empty if it goes on as it was.
    """
    changed = continuation.changes(config, directory)
    of_seeds = {path: (seed, continuation.changes(seed, path)) for path, seed in going_on_in(config, directory).items()}
    newest = max(env_steps.values(), default=0)
    for path, (values, differ) in ({directory: (config, changed)} | of_seeds).items():
        if differ:
            steps = env_steps.get(path, newest)
            continuation.record_changes(values, path, differ, env_steps=steps, arguments=arguments)
    return changed


def _check_gone_alone(config: RunConfig, changed: run_dir.Differences, seeds: Mapping[pathlib.Path, RunConfig]) -> None:
    """Raises ConfigError if a seed went on alone with another configuration, or further than all are to go."""
    before, after = changed.get("total_steps", (config.total_steps, config.total_steps))
    for path, seed in seeds.items():
        alone, _ = continuation.changes(seed, path).get("total_steps", (after, after))
        if alone > max(before, after):
            raise ConfigError(
                f"{path} has gone on alone to total_steps={alone}, past the {after} of all seeds; add"
                f" --config.total_steps={alone}, or continue each seed alone with"
                f" --run_dir={path.parent}/seed-N --resume"
            )


def _newest_of_all(
    directory: pathlib.Path, seeds: Sequence[pathlib.Path], warn: Callable[[str], None]
) -> list[checkpoint.Checkpoint] | None:
    """Returns the newest checkpoints of the same number; None if no seed has any, or some have their first alone."""
    directories = [path / checkpoint.DIRECTORY for path in seeds]
    numbers = [checkpoint.numbers(each) for each in directories]
    common = set[int].intersection(*map(set, numbers))
    for number in sorted(common, reverse=True):
        try:
            found = [checkpoint.read(each, number) for each in directories]
        except checkpoint.CheckpointError as error:
            warn(f"{error}; all seeds use the one before it")
            continue
        for path, of_seed in zip(seeds, numbers, strict=True):
            if of_seed[-1] > number:
                warn(f"{path.name} goes back to its checkpoint {number}, the newest that all seeds have")
        return found
    if common or any(of_seed and of_seed[-1] > 1 for of_seed in numbers):
        raise checkpoint.CheckpointError(
            f"the seeds of run_dir={directory} have no checkpoint of the same number that can be read; continue each"
            f" alone with --run_dir={directory}/seed-N --resume"
        )
    return None
