"""Data-efficient Rainbow with SEER on Atari.

    python -m seer_jax.train --config=configs/rainbow_atari.py
    python -m seer_jax.train --config=configs/rainbow_atari.py:constrained --config.env.task=krull

Presets, after the colon:
  paper        the compute-efficiency setting: 500,000 agent steps, replay of as many rows.
  baseline     the same without SEER.
  constrained  replay of 10,000 frames (0.07 GB) that grows to 30,625 latents at the freeze.
  constrained_impoola  the same with a pooled encoder of 15 convolutions. Its latents are 55 times smaller than frames,
               so that the replay grows to all rows of the run. The freeze is automatic.
  quick        about 5 minutes on 2 cores; uses every part, but does not reproduce the paper's result. At the freeze the
               replay shrinks from 115 MB of frames to 26 MB of latents, stored in float16.

Steps are agent steps; one is `env.action_repeat` frames. The published hyperparameters are the defaults of
`RunConfig`, `AtariConfig` and `RainbowConfig`; `docs/configuration.md` lists them. The paper publishes the freeze time
of Alien only, about 50,000, which `paper` and `constrained` have for every game; `--config.seer.freeze_step=auto` makes
it a share of `total_steps`.

Expected: `quick` takes about 5 minutes on 2 cores; one run scored 2,935 after 10,000 steps and 3,706 after 20,000, with
157 agent steps a second before the freeze and 333 after it. `paper` on Krull with `--config.seer.freeze_step=20000`
scored 3,576 +- 151 over two seeds after 15T multiply-accumulates (`docs/results.md`), in version 0.1.0 and with
`env.resize=area`, its default. Random play scores 1,598.
"""

from typing import Any

from ml_collections import ConfigDict

from seer_jax.run.resolve import default_config


def get_config(preset: str = "paper") -> ConfigDict:
    config = default_config(suite="atari", agent="rainbow")
    config.update({"env": {"task": "ms_pacman"}})
    known = presets()
    if preset not in known:
        raise ValueError(f"preset {preset!r} is unknown; choose one of {', '.join(known)}")
    config.update(known[preset])
    return config.lock()


def presets() -> dict[str, dict[str, Any]]:
    """Returns what each preset changes."""
    return {
        "paper": {"seer": {"freeze_step": 50_000}},
        "baseline": {"seer": {"enabled": False}},
        "constrained": {
            "replay": {"capacity": 10_000, "grow_after_freeze": True},
            "seer": {"freeze_step": 50_000},
        },
        "constrained_impoola": {
            "encoder": {"name": "impoola"},
            "replay": {"capacity": 10_000, "grow_after_freeze": True},
        },
        "quick": {
            "total_steps": 20_000,
            "num_envs": 4,
            "eval_every": 10_000,
            "checkpoint_every": 10_000,
            "env": {"task": "krull"},
            "agent": {"hidden": 128, "n_step": 10, "learning_rate": 3e-4, "target_update_every": 1000},
            "replay": {"capacity": 20_000, "latent_dtype": "float16"},
            "seer": {"freeze_after": 8000},  # a share of so short a run would be too few updates
        },
    }
