"""How a run starts or continues in its directory: what comes between the command line and the loop."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from seer_jax import status
from seer_jax.config import RunConfig
from seer_jax.fields import ConfigError
from seer_jax.run import (
    assembly,
    checkpoint,
    continuation,
    group,
    lock,
    needs,
    plan,
    resolve,
    rules,
    training_envs,
    transfer,
)
from seer_jax.run import fork as fork_lib
from seer_jax.run import run_dir as run_dir_lib
from seer_jax.run.checkpoint import Checkpoint
from seer_jax.run.loop import Loop
from seer_jax.run.records import Receiver, Record
from seer_jax.run.seed import directories_of
from seer_jax.seer.hosts import Hosts
from seer_jax.seer.placement import make_placement

_SHARED_SECONDS = 30.0  # after which the other hosts must see the directory of a run


def check_same(hosts: Hosts, config: RunConfig, directory: pathlib.Path, *, resume: bool, fork: str | None) -> None:
    """Raises ConfigError unless all hosts have the same arguments."""
    if hosts.count == 1:
        return
    mine = resolve.flat(config.to_dict()) | {"--run_dir": str(directory), "--resume": resume, "--fork": fork}
    first, *others = hosts.exchange(mine)
    for index, other in enumerate(others, start=1):
        if differ := [name for name in first if other.get(name) != first[name]]:
            name = differ[0]
            raise ConfigError(
                f"process {index} has {name}={other.get(name)}, and process 0 has {first[name]}; start all processes"
                " with the same arguments"
            )


@contextlib.contextmanager
def hold(
    directory: pathlib.Path, config: RunConfig, *, resume: bool, warn: Callable[[str], None], hosts: Hosts
) -> Iterator[Callable[[], None]]:
    """Does what `group.hold` does in process 0; raises ConfigError if the others do not see its directory."""
    with group.hold(directory, config, resume=resume, warn=warn) if hosts.leads else contextlib.nullcontext() as check:
        if hosts.count > 1:
            path = directory / lock.LOCK_FILE
            owner = hosts.lead(path.read_text)
            hosts.attempt(functools.partial(_wait_for, path, owner, hosts.index))
        yield check or (lambda: None)


def _wait_for(path: pathlib.Path, content: str, index: int) -> None:
    """Waits until a file has a content; network file systems show it some time after it was written."""
    end = time.monotonic() + _SHARED_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if path.read_text() == content:
                return
        if time.monotonic() > end:
            raise ConfigError(
                f"process {index} does not see run_dir={path.parent} as process 0 does; name a directory on a file"
                " system that all hosts share"
            )
        time.sleep(0.1)


def run_in(
    directory: pathlib.Path,
    config: RunConfig,
    *,
    resume: bool,
    fork: str | None,
    receivers: Sequence[Receiver],
    arguments: Sequence[str],
    warn: Callable[[str], None],
    check_run_dir: Callable[[], None],
    hosts: Hosts,
) -> Record:
    """Trains in a directory that is locked, and returns the record of kind `end`.

    Args:
      directory: directory of the run.
      config: its configuration.
      resume: continue the run from its newest checkpoint, if it has started.
      fork: `RUN_DIR[@STEP]`, the checkpoint of another run to begin with; None begins anew.
      receivers: each is called with every record.
      arguments: arguments of the command line that gave the configuration, if there was one.
      warn: receives one line about each thing that does not end the run.
      check_run_dir: from `hold`.
      hosts: all of which call this with the same arguments.

    Raises:
      Exception: what `seer_jax.train.run` raises.
    """
    started, found = hosts.lead(functools.partial(_find_checkpoints, directory, config, resume, fork, warn))
    saved = found and [each and Checkpoint(pathlib.Path(each[0]), each[1]) for each in found]
    source = pathlib.Path(config.seer.init_from) if config.seer.init_from is not None and saved is None else None
    if source is not None:
        transfer.check(config, source)
    pools = [each.progress["pool"] if each else 0 for each in saved or [None] * config.num_seeds]
    place = make_placement(config)  # refuses a mesh that there is not before environments start
    env = training_envs.make(config, place, pools)
    try:
        parts = assembly.assemble(config, env.action_spec)
        plan.refuse_if_too_large(config, needs.sizes(parts), plan.this_device())
        encoder = None if source is None else transfer.load_encoder(source, parts.full.state.params)
        if not started:
            trunk = saved and [each for each in saved if each is not None]
            hosts.lead(lambda: group.start(config, directory, arguments, resume=resume, trunk=trunk))
            saved = trunk and _linked(directories_of(config, directory), trunk)
        loop = Loop(
            parts,
            env,
            directory,
            encoder=encoder,
            saved=saved,
            receivers=receivers,
            warn=warn,
            check_run_dir=check_run_dir,
            hosts=hosts,
        )
    except BaseException:
        env.close()
        raise
    try:
        if hosts.leads:
            print(f"run directory: {directory}", flush=True)
            for message in rules.warnings(config):  # what refuses the run has passed
                warn(message)
        record = functools.partial(_record_changes, directory, config, saved, arguments)
        if started and (changed := hosts.lead(record)):
            values = (f"{name}={now} (was {before})" for name, (before, now) in changed.items())
            warn(f"goes on with {', '.join(values)}")
        end = loop.train(hosts.stop)
        return hosts.lead(lambda: end)
    finally:
        loop.close()


def _linked(directories: Sequence[pathlib.Path], trunk: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Returns the checkpoints of a trunk where its fork has them."""
    pairs = zip(directories, trunk, strict=True)
    return [each._replace(directory=path / checkpoint.DIRECTORY / each.directory.name) for path, each in pairs]


def _record_changes(
    directory: pathlib.Path, config: RunConfig, saved: Sequence[Checkpoint | None] | None, arguments: Sequence[str]
) -> run_dir_lib.Differences:
    """Does what `group.record_changes` does, at the agent steps of the checkpoints that the run goes on from."""
    steps = zip(directories_of(config, directory), saved or (), strict=False)
    env_steps = {path: each.progress["env_steps"] for path, each in steps if each is not None}
    return group.record_changes(config, directory, env_steps=env_steps, arguments=arguments)


def _find_checkpoints(
    directory: pathlib.Path, config: RunConfig, resume: bool, fork: str | None, warn: Callable[[str], None]
) -> tuple[bool, list[Any] | None]:
    """Returns whether to go on with a run that has started, and directory and progress of the checkpoint of each seed.

    The latter are None as in `group.find_checkpoints`, and for a run that begins anew.
    """
    started = resume and run_dir_lib.is_started(directory)
    with status.activity("checking the checkpoint to begin with"):
        if started:
            if fork is not None:
                fork_lib.check_origin(directories_of(config, directory)[0], fork, config.num_envs)
            saved = group.find_checkpoints(config, directory, continuation.changes(config, directory), warn)
        else:
            saved = None if fork is None else fork_lib.find(config, fork, warn)
    return started, saved and [each and (str(each.directory), each.progress) for each in saved]
