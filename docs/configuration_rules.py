"""The rules between fields of a configuration, for `configuration.md`: each with an example that breaks it.

`RULES` are in the order in which `seer_jax.run.resolve.resolve` checks them, and refuses a configuration that breaks
one. It accepts one that breaks a rule of `WARNINGS`, and a run warns of it. Tests try every example and compare the
rules with those of the code.
"""

from typing import Any, NamedTuple

from configs import curl_dmc, rainbow_atari


class Rule(NamedTuple):
    """A rule between fields.

    Attributes:
      meaning: one or two sentences.
      config_file: module of a configuration whose preset `paper` follows the rule.
      example: overrides, by dotted name, with which it breaks the rule.
    """

    meaning: str
    config_file: Any
    example: dict[str, Any]


RULES = (
    Rule(
        "`agent.name` is an algorithm for the actions of `env.suite`: discrete ones for `atari`, continuous ones for"
        " `dmc`.",
        rainbow_atari,
        {"agent.name": "curl_sac"},
    ),
    Rule(
        "`atari`: `env.task` is a game of EnvPool. Identifiers of Gymnasium are accepted, too: `ALE/Pong-v5`,"
        " `PongNoFrameskip-v4`.",
        rainbow_atari,
        {"env.task": "walker-walk"},
    ),
    Rule("`dmc`: `env.task` is a task of the DeepMind Control suite.", curl_dmc, {"env.task": "pong"}),
    Rule(
        "With `seer.freeze_step=auto`, `seer.freeze_after` is at most `seer.freeze_before`, or `total_steps` if that is"
        " unset.",
        rainbow_atari,
        {"seer.freeze_step": "auto", "seer.freeze_after": 60_000, "seer.freeze_before": 50_000},
    ),
    Rule(
        "`dmc`: the actuators of `env.task` have bounds. Those of both tasks of `lqr` have none.",
        curl_dmc,
        {"env.task": "lqr-lqr_2_1"},
    ),
    Rule(
        "`dmc`: this machine can render `env.task` from `env.camera_id` with `env.backend`.",
        curl_dmc,
        {"env.camera_id": 9},
    ),
    Rule(
        "`encoder.name` is an encoder of the table above, or `haiku:MODULE:FUNCTION`.",
        rainbow_atari,
        {"encoder.name": "resnet"},
    ),
    Rule("`encoder.width` is 1 unless `encoder.name` is `impala` or `impoola`.", rainbow_atari, {"encoder.width": 2}),
    Rule(
        "`haiku:MODULE:FUNCTION` can be imported, and `hk.transform` returned it.",
        rainbow_atari,
        {"encoder.name": "haiku:nothing:encoder"},
    ),
    Rule("`env.crop_size` is at most `env.image_size`.", rainbow_atari, {"env.crop_size": 90}),
    Rule(
        "`rainbow`: `seer.num_copies` is 1, since it stores latents without augmentation.",
        rainbow_atari,
        {"seer.num_copies": 4},
    ),
    Rule(
        "`rainbow`: `agent.v_max` is at least 1 with `env.clip_rewards`.",
        rainbow_atari,
        {"agent.v_max": 0.5},
    ),
    Rule("`curl_sac`: `agent.log_std_min` is at most `agent.log_std_max`.", curl_dmc, {"agent.log_std_min": 3.0}),
    Rule(
        "`curl_sac`: the input of the encoder has at most as many channels as its first convolution has outputs. The"
        " input has `env.frame_stack` times the channels of a frame.",
        curl_dmc,
        {"env.frame_stack": 11},
    ),
    Rule(
        "`seer.freeze_through` is a stage of `encoder.name` that `agent.name` can freeze; the table above lists them.",
        rainbow_atari,
        {"seer.freeze_through": "conv9"},
    ),
    Rule("`env.crop_size` is large enough for every stage of the encoder.", rainbow_atari, {"env.crop_size": 20}),
    Rule(
        "`num_seeds` is a multiple of `mesh.seed`, and `num_envs` and `agent.batch_size` are multiples of `mesh.data`.",
        rainbow_atari,
        {"mesh.data": 3},
    ),
    Rule(
        "The last seed, `seed + num_seeds - 1`, is at most 2147483647.",
        rainbow_atari,
        {"seed": 2**31 - 1, "num_seeds": 2},
    ),
    Rule(
        "With several seeds, each of `total_steps` and `seer.freeze_step` is a multiple of `checkpoint_every` or at"
        " least `num_envs` steps away from one: all seeds reach both in the same order.",
        rainbow_atari,
        {"num_seeds": 2, "num_envs": 2, "seer.freeze_step": 50_001},
    ),
    Rule(
        "With several seeds, each of `checkpoint_at` is a multiple of `checkpoint_every`, or at least `num_envs` steps"
        " away from one, and the same holds for its distance from `total_steps`, `seer.freeze_step` and the others.",
        rainbow_atari,
        {"num_seeds": 2, "num_envs": 2, "checkpoint_at": [20_000, 20_001]},
    ),
    Rule(
        "The pattern of updates of the algorithm repeats after at most 8 updates. That of `curl_sac` repeats after the"
        " least common multiple of `agent.updates_per_actor_update` and `agent.updates_per_target_update`, that of"
        " `rainbow` after 1.",
        curl_dmc,
        {"agent.updates_per_actor_update": 7, "agent.updates_per_target_update": 8},
    ),
    Rule(
        "`learn_start + 2 * period` is at most `total_steps`. The period is the agent steps until a pattern of updates"
        " is complete: `num_envs`, or the updates of the pattern divided by `replay_ratio` if that is more.",
        rainbow_atari,
        {"learn_start": 499_999},
    ),
    Rule("`learn_start` is at least `(agent.n_step + 1) * num_envs`.", rainbow_atari, {"learn_start": 10}),
    Rule(
        "With `seer.enabled`, `seer.freeze_step + 2 * num_envs` is at most `total_steps`.",
        rainbow_atari,
        {"seer.freeze_step": 500_000},
    ),
    Rule(
        "With `seer.enabled`, `seer.freeze_step + 2 * period` is at most `total_steps`, with the period that"
        " `seer.replay_ratio` gives.",
        rainbow_atari,
        {"seer.freeze_step": 499_000, "seer.replay_ratio": 0.001},
    ),
    Rule(
        "With `seer.enabled`, `seer.freeze_step` is at least `learn_start + 2 * period`; or it is 0, and"
        " `seer.init_from` is set.",
        rainbow_atari,
        {"seer.freeze_step": 1600},
    ),
    Rule(
        "`replay.capacity` is at least `(agent.n_step + env.frame_stack + 1) * num_envs`.",
        rainbow_atari,
        {"replay.capacity": 20},
    ),
    Rule(
        "`agent.batch_size` is at most `replay.capacity`.",
        rainbow_atari,
        {"agent.batch_size": 1000, "replay.capacity": 999},
    ),
    Rule(
        "With `seer.enabled`, `replay.capacity` latents take at most the bytes of as many frames, unless"
        " `replay.allow_more_memory` is True.",
        rainbow_atari,
        {"encoder.name": "canonical"},
    ),
)
WARNINGS = (
    Rule(
        "`checkpoint_every` is at least 1000 agent steps of each environment, or 0: a checkpoint truncates the running"
        " episodes.",
        rainbow_atari,
        {"checkpoint_every": 999},
    ),
    Rule(
        "On the CPU, `num_seeds` is at most `mesh.seed`: several seeds on one device are slower there than one after"
        " another.",
        rainbow_atari,
        {"num_seeds": 2},
    ),
    Rule("`agent.batch_size` is at most `learn_start`.", curl_dmc, {"agent.batch_size": 1024}),
    Rule("`agent.discount` is not 0.", curl_dmc, {"agent.discount": 0.0}),
    Rule(
        "`replay.priority_exponent` and `replay.importance_start` have their defaults without `replay.prioritized`.",
        rainbow_atari,
        {"replay.priority_exponent": 0.6},
    ),
    Rule(
        "`agent.reset_keep` is 0 without resets.",
        rainbow_atari,
        {"agent.reset_keep": 0.5},
    ),
    Rule(
        "`seer.replay_ratio` and `seer.reset_heads_every` are unset without `seer.enabled`.",
        rainbow_atari,
        {"seer.enabled": False, "seer.replay_ratio": 4.0},
    ),
    Rule(
        "`seer.freeze_after` and `seer.freeze_before` are kept by `seer.freeze_step` also if it is a number.",
        rainbow_atari,
        {"seer.freeze_step": 50_000, "seer.freeze_after": 60_000},
    ),
    Rule(
        "`rainbow`: `agent.target_update_every` has a multiple after `learn_start` and up to `total_steps`.",
        rainbow_atari,
        {"agent.target_update_every": 500_001},
    ),
    Rule(
        "`rainbow`: `agent.v_max` is at most `1 / (1 - agent.discount)` with `env.clip_rewards`.",
        rainbow_atari,
        {"agent.v_max": 200.0},
    ),
    Rule("`rainbow`: `agent.noise_std` is not 0.", rainbow_atari, {"agent.noise_std": 0.0}),
    Rule("`curl_sac`: `agent.random_steps` is less than `total_steps`.", curl_dmc, {"agent.random_steps": 80_000}),
    Rule("`curl_sac`: `agent.discount` is less than 1.", curl_dmc, {"agent.discount": 1.0}),
    Rule("`curl_sac`: `env.crop_size` is less than `env.image_size`.", curl_dmc, {"env.crop_size": 100}),
)
