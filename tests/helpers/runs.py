"""Tiny runs, some of which are killed, and the records and directories that runs write."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import curl_dmc, rainbow_atari
from seer_jax import files, replay, train
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import registry
from seer_jax.run import checkpoint, evaluation, run_dir, stepper
from seer_jax.run.measuring import Measuring
from seer_jax.run.resolve import resolve
from seer_jax.run.stepper import Stepper
from seer_jax.seer.phases import Phase
from seer_jax.seer.placement import Placement
from tests.helpers import fake_env
from tests.helpers.rings import alone

TIMES = ("seconds", "steps_per_second")  # how names of fields end


def tiny_config(**changes):
    """A run of 400 steps that freezes at 200; `changes` are overrides by dotted name, dots as __."""
    config = rainbow_atari.get_config("quick")
    overrides = {
        "total_steps": 400,
        "learn_start": 80,
        "num_envs": 2,
        "log_every": 50,
        "eval_every": 200,
        "eval_episodes": 2,
        "checkpoint_every": 150,
        "env.image_size": 42,
        "env.crop_size": 42,
        "agent.n_step": 3,
        "agent.hidden": 8,
        "agent.batch_size": 4,
        "replay.capacity": 300,
        "replay.latent_dtype": "float32",
        "replay.grow_after_freeze": True,
        "seer.freeze_step": 200,
    }
    return with_changes(config, overrides, changes)


def tiny_control_config(**changes):
    """CURL-SAC, 140 steps that freeze at 90; `changes` as in `tiny_config`."""
    config = curl_dmc.get_config("quick")
    overrides = {
        "total_steps": 140,
        "learn_start": 40,
        "num_envs": 2,
        "log_every": 20,
        "eval_every": 100,
        "eval_episodes": 2,
        "checkpoint_every": 50,
        "env.action_repeat": 50,
        "env.image_size": 34,
        "env.crop_size": 30,
        "agent.hidden": 8,
        "agent.batch_size": 4,
        "agent.random_steps": 20,
        "encoder.name": "data_efficient",
        "replay.capacity": 100,
        "replay.latent_dtype": "float32",
        "replay.grow_after_freeze": True,
        "seer.freeze_step": 90,
    }
    return with_changes(config, overrides, changes)


def with_changes(config, overrides, changes):
    config.update_from_flattened_dict(overrides | {name.replace("__", "."): value for name, value in changes.items()})
    return config


@contextlib.contextmanager
def fake_games():
    """Replaces the games by `FakeEnv`s and gives those that were made; a step must not move an array implicitly.

    For fixtures that several tests share; a single test takes the fixture `fake_envs`.
    """
    made, vector_step = [], Stepper.vector_step

    def guarded_step(stepper, *arguments, **named):
        with jax.transfer_guard("disallow"):
            vector_step(stepper, *arguments, **named)

    def make(config, **arguments):
        made.append(fake_env.make_env(config, **arguments))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "make_env", make)
        patch.setattr(Stepper, "vector_step", guarded_step)
        yield made


# Fields that no agent depends on, by section. Those of the replay and of the mesh show in the shapes of a phase.
_HOST_FIELDS = {
    "": (
        "seed",
        "total_steps",
        "learn_start",
        "replay_ratio",
        "log_every",
        "eval_every",
        "eval_episodes",
        "checkpoint_every",
        "checkpoint_at",
        "checkpoints_kept",
        "keep_best",
        "params_every",
        "on_nan",
        "num_seeds",
        "mesh",
    ),
    "agent": ("reset_heads_every", "reset_keep"),
    "replay": ("capacity", "grow_after_freeze", "allow_more_memory", "latent_dtype", "prioritized"),
    "seer": (
        "enabled",
        "freeze_step",
        "freeze_after",
        "freeze_before",
        "replay_ratio",
        "reset_heads_every",
        "signal_every",
        "init_from",
    ),
}


class _Unused:
    """Stands for the values of these fields: an agent that computes with one, or branches on it, fails."""

    def __bool__(self):
        raise TypeError("an agent depends on a field that is not to be one of its own")


_UNUSED = _Unused()
_agents, _programs, _acts, _measurings = {}, {}, {}, {}
_ONE_SEED = Placement().map_seeds


@contextlib.contextmanager
def compiled_once():
    """Gives all runs of this process whose programs are the same one agent, and compiles its programs once."""
    algorithms, compile_phase, make_act = dict(AGENTS), Phase.compile, evaluation.make_act

    def agent_of(config, action_spec):
        config = _without_host_fields(config)
        key = config, repr(action_spec)
        if key not in _agents:
            _agents[key] = algorithms[config.agent.name].make_agent(config, action_spec)
        return _agents[key]

    def programs_of(phase):
        key = _parts(phase)
        if key not in _programs:
            _programs[key] = compile_phase(phase)
        return _programs[key]

    def act_of(agent, first_stack, map_seeds=_ONE_SEED):
        key = agent, *_places(map_seeds.__self__)  # its configuration has one `first_stack`
        if key not in _acts:
            _acts[key] = make_act(agent, first_stack=first_stack, map_seeds=map_seeds)
        return _acts[key]

    def measuring_of(parts, hosts):
        seeds = parts.config.seed, parts.config.num_seeds
        key = parts.agent, parts.full.ring_spec, seeds, *_places(parts.placement)
        if key not in _measurings:
            _measurings[key] = Measuring(parts, hosts)
        return _measurings[key]

    with pytest.MonkeyPatch.context() as patch:
        for name, algorithm in algorithms.items():
            patch.setitem(AGENTS, name, dataclasses.replace(algorithm, make_agent=agent_of))
        patch.setattr(Phase, "compile", programs_of)
        patch.setattr(evaluation, "make_act", act_of)
        patch.setattr(stepper, "Measuring", measuring_of)
        yield


def forget_programs():
    """Frees what `compiled_once` keeps."""
    for kept in (_agents, _programs, _acts, _measurings):
        kept.clear()


def _without_host_fields(config):
    unused = {section: dict.fromkeys(names, _UNUSED) for section, names in _HOST_FIELDS.items()}
    sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in unused.items() if name}
    return dataclasses.replace(config, **unused[""], **sections)


def _parts(phase):
    """Returns what the programs of a phase depend on."""
    exponents = tuple(float(phase.importance_exponent(steps)) for steps in (0, 1, 10, 100, 1000))
    numbers = phase.batch_size, phase.replay_ratio, phase.reset_heads_every > 0, phase.reset_keep, *exponents
    return phase.agent, phase.name, phase.ring_spec, *jax.tree.leaves(phase.row), *numbers, *_places(phase.placement)


def _places(placement):
    return placement.num_seeds, placement.mesh and placement.mesh.devices.shape


def records(directory):
    return run_dir.read_records(directory / "metrics.jsonl")


def untimed(directory):
    return [untimed_record(record) for record in records(directory)]


def untimed_record(record):
    return {k: v for k, v in record.items() if not k.endswith(TIMES)}


def contents(directory):
    """Returns the content of each file in a directory."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def unsized(records):
    """Returns the records without the sizes of rings, which follow from `total_steps`."""
    return [
        {k: v for k, v in record.items() if "replay_bytes" not in k and "replay_capacity" not in k}
        for record in records
    ]


def assert_runs_equal(directory, expected):
    """The runs have the same records, training state and ring."""
    assert unsized(untimed(directory)) == unsized(untimed(expected))
    newest = [checkpoint.newest(each / checkpoint.DIRECTORY, pytest.fail).directory for each in (directory, expected)]
    assert newest[0].name == newest[1].name
    jax.tree.map(np.testing.assert_array_equal, *map(files.load_tree, newest))
    for chunks in zip(*map(files.ChunkStream, newest), strict=True):
        jax.tree.map(np.testing.assert_array_equal, *chunks)


class Killed(BaseException):
    """Leaves a run as `kill -9` would."""


def run_killed_after(config, directory, steps, monkeypatch, *, resume=False):
    """Runs until the environments were stepped so often, and leaves as `kill -9` would."""
    vector_step, seen = Stepper.vector_step, []

    def step(stepper, *arguments, **named):
        seen.append(1)
        if len(seen) > steps:
            raise Killed
        vector_step(stepper, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "vector_step", step)
        with pytest.raises(Killed):
            train.run(config, directory, resume=resume)


def kill_at(owner, name, calls, monkeypatch, run):
    """Calls `run` and leaves it as `kill -9` would, at one of the calls of a function."""
    function, seen = getattr(owner, name), []

    def call(*args, **kwargs):
        seen.append(1)
        if len(seen) == calls:
            raise Killed
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        with pytest.raises(Killed):
            run()


def write_run(directory, config, params=None):
    """Writes the directory of a run that has a checkpoint with `params` in it, and an empty ring."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(resolve(config).to_dict()))
    spec = replay.RingSpec(num_steps=8, num_envs=1, stack=1, n_step=1, discount=0.9)
    row = replay.row_shapes(jax.ShapeDtypeStruct((1, 4, 4, 1), np.uint8), jax.ShapeDtypeStruct((1,), np.int32))
    trees = {"train": {"params": params or {}}}
    ring = replay.init(spec, row)
    checkpoint.save(directory / "checkpoints", 1, progress={"env_steps": 1}, trees=trees, ring=alone(spec, ring))


def write_untrained_run(directory, config):
    """Writes the directory of a run with new parameters, which can be evaluated; returns the parameters."""
    resolved = resolve(config)
    env = registry.make_env(resolved, training=False)
    try:
        agent = AGENTS[resolved.agent.name].make_agent(resolved, env.action_spec)
    finally:
        env.close()
    params = jax.device_get(jax.jit(agent.init)(jax.random.PRNGKey(1)).params)
    write_run(directory, config, params)
    return params


def only_error_line(capsys):
    """Returns what a command wrote to the standard error, which is one line."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error
