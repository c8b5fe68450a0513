"""The typed configuration of a run: one frozen dataclass for each section.

`seer_jax.run.resolve` makes one of what a configuration file and the command line give. Suites and algorithms extend
`EnvConfig` and `AgentConfig` by fields of their own. Steps are agent steps.
"""

import dataclasses
from typing import Any

from seer_jax.fields import UNSET, flag, integer, integers, real, text

FIRST_STACKS = ("black", "repeat")
MAX_SEEDS = 1024
SIGNAL_EVERY = 1000  # of runs with SEER, unless `seer.signal_every` is set
AUTO = "auto"  # the value of `seer.freeze_step` that makes it a share of `total_steps`
FREEZE_SHARE = 0.05  # docs/freezing.md has what was tried
LATENT_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The environments. A field that is unset follows from the suite's protocol."""

    suite: str = text(UNSET, "family of tasks")
    task: str = text(UNSET, "task of the suite")
    frame_stack: int = integer(4, "frames in an observation", low=1, high=16)
    first_stack: str = text(
        "black",
        "frames before the first of an episode: zeros, or that first frame repeated",
        options=FIRST_STACKS,
        earlier="black",
    )
    action_repeat: int = integer(1, "frames of one agent step", low=1, high=60)
    image_size: int = integer(84, "height and width of a frame, in pixels", low=8, high=256)
    crop_size: int = integer(84, "height and width of the encoder's input, in pixels", low=8, high=256)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """The algorithm."""

    name: str = text(UNSET, "algorithm")
    batch_size: int = integer(32, "transitions of an update", low=1, high=65_536)
    n_step: int = integer(1, "steps of a return before it bootstraps", low=1, high=1000)
    discount: float = real(0.99, "discount factor of one agent step", low=0.0, high=1.0)
    learning_rate: float = real(1e-4, "Adam learning rate", low=1e-12, high=1.0)
    hidden: int = integer(256, "units of a hidden layer", low=1, high=65_536)
    reset_heads_every: int = integer(
        0, "updates between two resets of the heads to new initial values; 0 resets none", earlier=0
    )
    reset_keep: float = real(
        0.0, "share of its parameters that the heads keep at a reset: shrink and perturb", low=0.0, high=0.99
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The encoder."""

    name: str = text("data_efficient", "encoder, or haiku:MODULE:FUNCTION")
    width: int = integer(1, "factor of the channels of `impala` and `impoola`", low=1, high=16, earlier=1)
    compute_dtype: str = text("float32", "dtype in which the encoder computes", options=("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """The replay ring."""

    capacity: int = integer(500_000, "rows: one for each agent step and one more for each episode", low=1)
    grow_after_freeze: bool = flag(False, "latents use all bytes that `replay.capacity` frames take")
    allow_more_memory: bool = flag(False, "latents may use more bytes than `replay.capacity` frames take")
    latent_dtype: str = text("float32", "dtype of stored latents", options=LATENT_DTYPES)
    prioritized: bool = flag(False, "proportional prioritized replay instead of uniform")
    priority_exponent: float = real(0.5, "exponent of the loss that gives a priority", low=0.0, high=1.0)
    importance_start: float = real(0.4, "exponent of the importance weights at the first update", low=0.0, high=1.0)
    importance_steps: int = integer(
        500_000, "agent steps after `learn_start` in which the exponent of the importance weights rises to 1", low=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeerConfig:
    """The freeze."""

    enabled: bool = flag(True, "freeze the encoder and store latents; False trains without SEER")
    freeze_step: int | str = integer(
        AUTO,
        f"agent steps until the encoder freezes; 0 with `seer.init_from`; auto: {FREEZE_SHARE:g} of `total_steps`",
        word=AUTO,
    )
    freeze_after: int | None = integer(UNSET, "agent steps before which an automatic freeze does not come", low=1)
    freeze_before: int | None = integer(UNSET, "agent steps after which an automatic freeze does not come", low=1)
    replay_ratio: float = real(UNSET, "updates per agent step after the freeze", low=1e-4, high=64.0)
    reset_heads_every: int = integer(UNSET, "updates between two resets of the heads after the freeze; 0 resets none")
    num_copies: int = integer(1, "augmented latents stored of each row", low=1, high=256)
    freeze_through: str = text(UNSET, "last stage of the encoder that freezes; unset, the algorithm's own choice")
    signal_every: int = integer(
        UNSET, "agent steps between two signals of how far the encoder has come; 0 measures none"
    )
    sync_target_heads: bool = flag(False, "set the target heads to the heads at the freeze")
    init_from: str | None = text(UNSET, "directory of a run whose encoder to start from", optional=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The devices of a run."""

    seed: int = integer(1, "devices over which the seeds are spread", low=1, high=65_536)
    data: int = integer(1, "devices over which the environments and the batch of a seed are spread", low=1, high=65_536)

    @property
    def num_devices(self) -> int:
        """Devices of the mesh."""
        return self.seed * self.data


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run, complete and checked."""

    seed: int = integer(0, "seed of all random numbers of the run")
    num_seeds: int = integer(
        1, "runs that are trained together, with the seeds `seed`, `seed` + 1 and so on", low=1, high=MAX_SEEDS
    )
    total_steps: int = integer(500_000, "agent steps of the run", low=1)
    learn_start: int = integer(1600, "agent steps before the first update", low=1)
    num_envs: int = integer(
        1, "environments stepped together; changes the batching, not the updates per step", low=1, high=4096
    )
    replay_ratio: float = real(
        1.0, "updates per agent step, taken as the nearest fraction (`seer_jax/seer/pace.py`)", low=1e-4, high=64.0
    )
    log_every: int = integer(1000, "agent steps between two lines of kind train", low=1)
    eval_every: int = integer(10_000, "agent steps between two evaluations", low=1)
    eval_episodes: int = integer(10, "episodes of an evaluation", low=1, high=1000)
    checkpoint_every: int = integer(50_000, "agent steps between two checkpoints; 0 writes the last one only")
    checkpoint_at: tuple[int, ...] = integers(
        "agent steps after which a checkpoint is written that stays on the disk, to fork from", low=1
    )
    checkpoints_kept: int = integer(
        2, "checkpoints that stay on the disk; the older ones are for damage", low=1, high=1000
    )
    keep_best: bool = flag(False, "keep the training state of the best evaluation in best/, for `evaluate --best`")
    params_every: int = integer(0, "agent steps between two copies of the parameters in params/; 0 keeps none")
    on_nan: str = text(
        "stop", "reaction to a loss or a parameter that is not finite", options=("stop", "stop_seed", "ignore")
    )
    env: EnvConfig
    agent: AgentConfig
    encoder: EncoderConfig
    replay: ReplayConfig
    seer: SeerConfig
    mesh: MeshConfig = MeshConfig()

    @property
    def full_steps(self) -> int:
        """The agent steps of the full phase: up to the freeze, or up to the end without SEER."""
        if not self.seer.enabled:
            return self.total_steps
        assert isinstance(self.seer.freeze_step, int)  # `resolve` has replaced auto
        return self.seer.freeze_step

    def to_dict(self) -> dict[str, Any]:
        """Returns the values as nested dictionaries, as `config.json` has them."""

        def section(values: list[tuple[str, Any]]) -> dict[str, Any]:
            return {name: list(value) if isinstance(value, tuple) else value for name, value in values}

        return dataclasses.asdict(self, dict_factory=section)
