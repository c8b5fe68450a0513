"""Makes a configuration complete and refuses what cannot run, before anything starts or is written."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from seer_jax import fields, replay
from seer_jax.agents.registry import AGENTS
from seer_jax.envs.registry import SUITES
from seer_jax.fields import MANY, Choice, ConfigError, Field, Flag, Name, Number
from seer_jax.networks import encoders, haiku
from seer_jax.seer import handover

LATENT_DTYPES = ("float32", "bfloat16", "float16")


def general_fields() -> dict[str, Field]:
    """Returns the fields of every run's configuration by dotted name; suites and agents have others beside."""
    return {
        "seed": Number("of everything", 0, MANY),
        "total_steps": Number("agent steps of the run", 1, MANY),
        "learn_start": Number("agent steps before the first update", 1, MANY),
        "num_envs": Number("environments stepped together; changes the batching, not the updates per step", 1, 4096),
        "update_every": Number("agent steps to an update", 1, 10_000),
        "log_every": Number("agent steps to a line of kind train", 1, MANY),
        "eval_every": Number("agent steps to an evaluation", 1, MANY),
        "eval_episodes": Number("episodes of an evaluation", 1, 1000),
        "checkpoint_every": Number("agent steps to a checkpoint; 0 writes the last one alone", 0, MANY),
        "params_every": Number("agent steps to a copy of the parameters that stays in params/; 0 keeps none", 0, MANY),
        "on_nan": Choice("what to do when a loss or a parameter is no longer finite", ("stop", "ignore")),
        "env.suite": Choice("family of tasks", tuple(SUITES)),
        "env.task": Name("as EnvPool or the suite names it"),
        "env.frame_stack": Number("frames that an observation is made of", 1, 16),
        "env.action_repeat": Number("frames of one agent step", 1, 60),
        "env.image_size": Number("pixels of a frame, each way", 8, 256),
        "env.crop_size": Number("pixels of what the encoder is shown, each way", 8, 256),
        "agent.name": Choice("algorithm", tuple(AGENTS)),
        "agent.batch_size": Number("transitions of an update", 1, 65_536),
        "agent.n_step": Number("steps of a return before it bootstraps", 1, 1000),
        "agent.discount": Number("of one agent step", 0.0, 1.0),
        "agent.learning_rate": Number("of Adam", 1e-12, 1.0),
        "agent.hidden": Number("units of a hidden layer", 1, 65_536),
        "encoder.name": Name(f"{', '.join(encoders.ENCODERS)} or {haiku.PREFIX}MODULE:FUNCTION"),
        "encoder.compute_dtype": Choice("in which the encoder computes", ("float32", "bfloat16")),
        "replay.capacity": Number("rows, one for each agent step and one more for each episode", 1, MANY),
        "replay.grow_after_freeze": Flag("whether latents use all the bytes that `replay.capacity` frames take"),
        "replay.allow_more_memory": Flag("whether latents may use more bytes than `replay.capacity` frames take"),
        "replay.latent_dtype": Choice("in which latents are stored", LATENT_DTYPES),
        "replay.prioritized": Flag("proportional prioritized replay instead of uniform"),
        "replay.priority_exponent": Number("of the loss, to a priority", 0.0, 1.0),
        "replay.importance_start": Number("exponent of the importance weights at first; 1 at the end", 0.0, 1.0),
        "seer.enabled": Flag("False for the algorithm without SEER"),
        "seer.freeze_step": Number("agent steps until the encoder freezes; 0 with init_from", 0, MANY),
        "seer.num_copies": Number("augmented latents stored of each row", 1, 256),
        "seer.freeze_through": Name("last stage that freezes; unset, the algorithm's own", optional=True),
        "seer.sync_target_heads": Flag("whether target heads are set to the heads at the freeze"),
        "seer.init_from": Name("directory of a run whose encoder to start from", optional=True),
    }


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a locked copy with everything filled in that follows from the rest.

    That is the plain name of the game, the items of the protocol, and the stage that the freeze goes through.

    Raises:
      ConfigError: the run cannot start, or could not end well.
    """
    config = config.copy_and_resolve_references().unlock()
    for name, known in (("env.suite", SUITES), ("agent.name", AGENTS)):
        Choice("", tuple(known)).check(name, fields.get(config, name))
    suite, algorithm = SUITES[config.env.suite], AGENTS[config.agent.name]
    known_fields = {**general_fields(), **suite.fields, **algorithm.FIELDS}
    fields.check(config, known_fields, Choice, Name)
    if suite.discrete_actions != algorithm.DISCRETE_ACTIONS:
        kinds = {True: "discrete", False: "continuous"}
        able = [name for name, agent in AGENTS.items() if suite.discrete_actions == agent.DISCRETE_ACTIONS]
        raise ConfigError(
            f"agent.name={config.agent.name} needs {kinds[algorithm.DISCRETE_ACTIONS]} actions and"
            f" env.suite={config.env.suite} has {kinds[suite.discrete_actions]} ones; use {' or '.join(able)}"
        )
    suite.resolve(config)
    fields.check(config, known_fields, Number, Flag)
    suite.check(config)
    algorithm.check(config)
    _resolve_encoder(config)
    _check_schedule(config)
    _check_replay(config)
    return config.lock()


def _resolve_encoder(config: ConfigDict) -> None:
    """Checks that the encoder reads these images, and names the stage at which it is cut."""
    name, env = fields.get(config, "encoder.name"), config.env
    if not (isinstance(name, str) and (name in encoders.ENCODERS or name.startswith(haiku.PREFIX))):
        known = ", ".join(encoders.ENCODERS)
        raise ConfigError(f"encoder.name={name!r} is unknown; it is one of {known}, or {haiku.PREFIX}module:function")
    if env.crop_size > env.image_size:
        raise ConfigError(f"env.crop_size={env.crop_size} does not fit into env.image_size={env.image_size}; lower it")
    algorithm = AGENTS[config.agent.name]
    try:
        stages = algorithm.stage_names(config)
        if config.seer.freeze_through is None:
            config.seer.freeze_through = stages[-1]
        if config.seer.freeze_through not in stages:
            raise ConfigError(
                f"seer.freeze_through={config.seer.freeze_through!r} is no stage of {name}: {', '.join(stages)} are"
            )
        _, latent_size = algorithm.latent_shape(config)
        whole = config.copy_and_resolve_references()
        whole.seer.freeze_through = stages[-1]
        _, final_size = algorithm.latent_shape(whole)
    except haiku.HaikuError as error:
        raise ConfigError(str(error)) from None
    except ConfigError:
        raise
    except Exception as error:  # the user's own encoder may raise anything
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ConfigError(f"encoder.name={name} cannot read {env.crop_size}-pixel images: {what}") from None
    if latent_size == 0 or final_size == 0:
        raise ConfigError(f"env.crop_size={env.crop_size} is too small for encoder.name={name}; raise it")


def _check_schedule(config: ConfigDict) -> None:
    larger, smaller = max(config.num_envs, config.update_every), min(config.num_envs, config.update_every)
    if larger % smaller:
        raise ConfigError(
            f"num_envs={config.num_envs} and update_every={config.update_every}: one must be a multiple of the other"
        )
    cycle = AGENTS[config.agent.name].updates_per_cycle(config)
    if cycle > 8:
        raise ConfigError(
            f"updates of agent.name={config.agent.name} repeat only after {cycle} updates, which are compiled as one"
            " program; choose how often its parts are updated so that they repeat after at most 8"
        )
    at_once = max(1, config.num_envs // config.update_every)
    if at_once > cycle and at_once % cycle:
        raise ConfigError(
            f"num_envs={config.num_envs} owe {at_once} updates at once, which is no multiple of the {cycle} after which"
            f" {config.agent.name} repeats itself; choose num_envs accordingly"
        )
    # Steps between two calls of `learn`; each phase needs a few to have anything to say of itself.
    period = max(config.num_envs, config.update_every * cycle)
    if config.learn_start + 2 * period > config.total_steps:
        raise ConfigError(
            f"learn_start={config.learn_start} is not well below total_steps={config.total_steps}: nothing would be"
            f" learned; lower it to at most {config.total_steps - 2 * period}"
        )
    first_window = (config.agent.n_step + 1) * config.num_envs
    if config.learn_start < first_window:
        raise ConfigError(
            f"learn_start={config.learn_start} comes before the first {config.agent.n_step}-step window of"
            f" {config.num_envs} environments is complete; raise it to at least {first_window}"
        )
    if not config.seer.enabled:
        return
    if config.seer.freeze_step + 2 * period > config.total_steps:
        raise ConfigError(
            f"seer.freeze_step={config.seer.freeze_step} is past total_steps={config.total_steps}: the encoder would"
            " never freeze; lower it or set seer.enabled=False"
        )
    if config.seer.freeze_step == 0 and config.seer.init_from is not None:
        return
    if config.seer.freeze_step < config.learn_start + 2 * period:
        raise ConfigError(
            f"seer.freeze_step={config.seer.freeze_step} is not past learn_start={config.learn_start}: an untrained"
            f" encoder would freeze; raise it to at least {config.learn_start + 2 * period}, or set it to 0 with"
            " seer.init_from=RUN_DIR"
        )


def _check_replay(config: ConfigDict) -> None:
    least = replay.min_steps(config.agent.n_step, config.env.frame_stack) * config.num_envs
    if config.replay.capacity < least:
        raise ConfigError(
            f"replay.capacity={config.replay.capacity} cannot hold one {config.agent.n_step}-step window and frame"
            f" stack of {config.num_envs} environments ({least} rows); raise it or lower agent.n_step or num_envs"
        )
    if not config.seer.enabled:
        return
    itemsize = jnp.dtype(config.replay.latent_dtype).itemsize
    same_bytes = handover.capacity_in_same_bytes(config)
    if same_bytes < config.replay.capacity and not config.replay.allow_more_memory:
        frame, latent = handover.bytes_per_row(config)
        narrow = [dtype for dtype in LATENT_DTYPES if latent * jnp.dtype(dtype).itemsize <= frame * itemsize]
        cures = [f"set replay.latent_dtype={narrow[0]}"] if narrow else []
        last = AGENTS[config.agent.name].stage_names(config)[-1]
        if config.seer.freeze_through != last:
            cures.append(f"freeze up to a later stage than seer.freeze_through={config.seer.freeze_through}")
        raise ConfigError(
            f"a {config.replay.latent_dtype} latent of {config.encoder.name} takes {latent:,} bytes, a frame {frame:,}:"
            f" in the same memory replay.capacity={config.replay.capacity:,} would shrink to {same_bytes:,} at the"
            f" freeze; {', '.join([*cures, 'use a smaller encoder'])}, or allow the replay to grow to"
            f" {config.replay.capacity * latent / 1e9:.2f} GB with replay.allow_more_memory=True"
        )
