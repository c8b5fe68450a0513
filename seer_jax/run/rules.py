"""The rules between the fields of a configuration, and what a run is warned of before it starts.

What a field may hold by itself is declared with the field; `seer_jax.run.resolve` checks that, and then these rules.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from seer_jax import fields, replay
from seer_jax.agents.base import Algorithm
from seer_jax.agents.registry import AGENTS
from seer_jax.config import AUTO, FREEZE_SHARE, LATENT_DTYPES, ReplayConfig, RunConfig
from seer_jax.fields import ConfigError
from seer_jax.seer import capacity, pace

_MAX_UPDATES = 8  # that are written out as one program
_MAX_SEED = 2**31 - 1
_EPISODE_STEPS = 1000  # agent steps of an episode in many tasks


def automatic_freeze_step(seer: Mapping[str, Any], total_steps: int) -> int:
    """Returns the agent steps until an automatic freeze: a share of the run, within the bounds.

    Args:
      seer: values of the section.
      total_steps: of the run.

    Raises:
      ConfigError: no step lies within the bounds.
    """
    first, last = seer["freeze_after"] or 0, seer["freeze_before"] or total_steps
    if first > last:
        raise ConfigError(
            f"seer.freeze_after={first} is past"
            f" {'total_steps' if seer['freeze_before'] is None else 'seer.freeze_before'}={last}; lower it"
        )
    return min(max(round(FREEZE_SHARE * total_steps), first), last)


def check_schedule(config: RunConfig, algorithm: Algorithm) -> None:
    """Raises ConfigError if nothing would be learned, or the encoder would freeze at a bad time or never."""
    _check_pattern(config, algorithm)
    last = config.total_steps - 2 * _period(config, algorithm, config.replay_ratio)
    if config.learn_start > last:
        fix = f"lower it to at most {last}" if last > 0 else "raise total_steps or replay_ratio"
        raise ConfigError(
            f"learn_start={config.learn_start} is too close to total_steps={config.total_steps}: nothing would be"
            f" learned with replay_ratio={config.replay_ratio:g}; {fix}"
        )
    first_window = (config.agent.n_step + 1) * config.num_envs
    if config.learn_start < first_window:
        raise ConfigError(
            f"learn_start={config.learn_start} comes before the first {config.agent.n_step}-step window of"
            f" {config.num_envs} environments is complete; raise it to at least {first_window}"
        )
    if config.seer.enabled:
        _check_freeze_step(config, algorithm)


def _check_pattern(config: RunConfig, algorithm: Algorithm) -> None:
    cycle = algorithm.updates_per_cycle(config.agent)
    if cycle > _MAX_UPDATES:
        raise ConfigError(
            f"the pattern of updates of agent.name={config.agent.name} repeats only after {cycle} updates, which are"
            f" compiled as one program; let it repeat after at most {_MAX_UPDATES}"
        )


def _period(config: RunConfig, algorithm: Algorithm, replay_ratio: float) -> int:
    """Returns the most agent steps until a pattern of updates is complete."""
    cycle = algorithm.updates_per_cycle(config.agent)
    return max(config.num_envs, math.ceil(cycle / pace.replay_ratio(replay_ratio)))


def _check_freeze_step(config: RunConfig, algorithm: Algorithm) -> None:
    step, length, ratio = config.full_steps, f"total_steps={config.total_steps}", config.seer.replay_ratio
    if step + 2 * config.num_envs > config.total_steps:
        raise ConfigError(
            f"seer.freeze_step={step} is past {length}: the encoder would never"
            " freeze; lower it or set seer.enabled=False"
        )
    if step + 2 * _period(config, algorithm, ratio) > config.total_steps:
        raise ConfigError(
            f"seer.freeze_step={step} is too close to {length}: nothing would be learned after it with"
            f" seer.replay_ratio={ratio:g}; lower it, or raise seer.replay_ratio"
        )
    if step == 0 and config.seer.init_from is not None:
        return
    first = config.learn_start + 2 * _period(config, algorithm, config.replay_ratio)
    if step < first:
        share = f", {FREEZE_SHARE:g} of {length}," if step == round(FREEZE_SHARE * config.total_steps) else ""
        raise ConfigError(
            f"seer.freeze_step={step}{share} is not past learn_start={config.learn_start}: an untrained"
            f" encoder would freeze; raise it to at least {first}, or set it to 0 with"
            " seer.init_from=RUN_DIR"
        )


def check_mesh(config: RunConfig) -> None:
    """Raises ConfigError if seeds, environments or batches cannot be spread evenly, or the seeds' steps cannot be."""
    mesh = config.mesh
    for name, count, axis, devices in (
        ("num_seeds", config.num_seeds, "mesh.seed", mesh.seed),
        ("num_envs", config.num_envs, "mesh.data", mesh.data),
        ("agent.batch_size", config.agent.batch_size, "mesh.data", mesh.data),
    ):
        if count % devices:
            raise ConfigError(f"{name}={count} is not a multiple of {axis}={devices}; choose one that is")
    if config.num_seeds > 1:
        _check_seeds(config)


def _check_seeds(config: RunConfig) -> None:
    last = config.seed + config.num_seeds - 1
    if last > _MAX_SEED:
        raise ConfigError(
            f"seed={config.seed} and num_seeds={config.num_seeds}: the last seed would be {last}, and {_MAX_SEED} is"
            " the largest; lower seed"
        )
    every, steps = config.checkpoint_every, [("total_steps", config.total_steps)]
    if config.seer.enabled:
        steps.append(("seer.freeze_step", config.full_steps))
    at = [("checkpoint_at", step) for step in config.checkpoint_at]
    # Seeds take up to num_envs steps at once: of two times nearer than that, seeds could reach one without the other.
    for (name, step), (other, near) in itertools.product(at, [*steps, *at]):
        if 0 < abs(step - near) < config.num_envs:
            raise ConfigError(
                f"{name}={step} is {abs(step - near)} steps from {other}={near}, less than num_envs={config.num_envs}:"
                " seeds that are trained together could not do both in the same order; set them to the same step"
            )
    for name, step in [*steps, *at] if every else ():
        distance = min(step % every, -step % every)
        if 0 < distance < config.num_envs:
            raise ConfigError(
                f"{name}={step} is {distance} steps from a multiple of checkpoint_every={every}, less than"
                f" num_envs={config.num_envs}: seeds that are trained together could not do both in the same order; set"
                f" {name}={round(step / every) * every or every}"
            )


def check_replay(config: RunConfig, algorithm: Algorithm) -> None:
    """Raises ConfigError if the ring is too small for this agent, or the latents take more memory than the frames."""
    needed = replay.min_steps(config.agent.n_step, config.env.frame_stack) * config.num_envs
    if config.replay.capacity < needed:
        raise ConfigError(
            f"replay.capacity={config.replay.capacity} cannot hold one {config.agent.n_step}-step window and frame"
            f" stack of {config.num_envs} environments ({needed} rows); raise it or lower agent.n_step or num_envs"
        )
    if config.agent.batch_size > config.replay.capacity:
        raise ConfigError(
            f"agent.batch_size={config.agent.batch_size} transitions are more than the replay.capacity="
            f"{config.replay.capacity} rows to draw them from; lower agent.batch_size or raise replay.capacity"
        )
    if not config.seer.enabled or config.replay.allow_more_memory:
        return
    same_bytes = capacity.capacity_in_same_bytes(config)
    if same_bytes >= config.replay.capacity:
        return
    frame, latent = capacity.bytes_per_row(config)
    itemsize = jnp.dtype(config.replay.latent_dtype).itemsize
    narrow = [dtype for dtype in LATENT_DTYPES if latent * jnp.dtype(dtype).itemsize <= frame * itemsize]
    fixes = [f"set replay.latent_dtype={narrow[0]}"] if narrow else []
    if config.seer.freeze_through != algorithm.stage_names(config.encoder)[-1]:
        fixes.append(f"freeze up to a later stage than seer.freeze_through={config.seer.freeze_through}")
    raise ConfigError(
        f"a {config.replay.latent_dtype} latent of {config.encoder.name} takes {latent:,} bytes, a frame {frame:,}:"
        f" in the same memory replay.capacity={config.replay.capacity:,} would shrink to {same_bytes:,} at the"
        f" freeze; {', '.join([*fixes, 'use a smaller encoder'])}, or allow the replay to grow to"
        f" {config.replay.capacity * latent / 1e9:.2f} GB with replay.allow_more_memory=True"
    )


def warnings(config: RunConfig, platform: str | None = None) -> list[str]:
    """Returns a line about each choice of a resolved configuration that can run and is probably not meant.

    `seer_jax.train` prints them before a run starts.

    Args:
      config: the configuration.
      platform: on which it would run; None stands for that of JAX's default device.
    """
    on_cpu = (platform or jax.default_backend()) == "cpu"
    return [*_warnings(config, on_cpu=on_cpu), *AGENTS[config.agent.name].warnings(config)]


def _warnings(config: RunConfig, *, on_cpu: bool) -> Iterator[str]:
    steps = config.checkpoint_every // config.num_envs
    if 0 < steps < _EPISODE_STEPS:
        yield (
            f"each checkpoint truncates the running episodes, after {steps:,} steps of an environment; raise"
            f" checkpoint_every (now {config.checkpoint_every:,}) or lower num_envs (now {config.num_envs})"
        )
    if config.num_seeds > config.mesh.seed and on_cpu:
        yield (
            f"num_seeds={config.num_seeds} on the CPU are slower in one process than one after another (0.75 times the"
            " speed in the full phase); train each in a process of its own, for example with experiments.sweep --seeds"
        )
    if config.agent.batch_size > config.learn_start:
        yield (
            f"agent.batch_size={config.agent.batch_size} transitions are more than there are after"
            f" learn_start={config.learn_start} agent steps: the first updates repeat them; raise learn_start"
        )
    if config.agent.discount == 0:
        yield "agent.discount=0 ignores all rewards after the next step; raise it, for example to 0.99"
    defaults = fields.defaults_of(ReplayConfig)
    for name in ("priority_exponent", "importance_start"):
        value = getattr(config.replay, name)
        if value != defaults[name] and not config.replay.prioritized:
            yield f"replay.{name}={value} has no effect without replay.prioritized=True; set that, too"
    seer, step = config.seer, config.full_steps
    if config.agent.reset_keep and not (config.agent.reset_heads_every or seer.reset_heads_every):
        yield (
            f"agent.reset_keep={config.agent.reset_keep} has no effect without resets; set agent.reset_heads_every, too"
        )
    for name, value, everywhere in (
        ("replay_ratio", seer.replay_ratio, config.replay_ratio),
        ("reset_heads_every", seer.reset_heads_every, config.agent.reset_heads_every),
    ):
        if not seer.enabled and value != everywhere:
            yield f"seer.{name}={value} has no effect without seer.enabled=True; set that, or leave it out"
    for name, bound, kept in (
        ("freeze_after", seer.freeze_after, step >= (seer.freeze_after or step)),
        ("freeze_before", seer.freeze_before, step <= (seer.freeze_before or step)),
    ):
        if seer.enabled and not kept:
            yield (
                f"seer.{name}={bound} has no effect on seer.freeze_step={step}, which is a number; set that to {AUTO},"
                " or leave the bound out"
            )
