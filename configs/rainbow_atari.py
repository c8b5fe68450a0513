"""Data-efficient Rainbow with SEER on Atari.

    python -m seer_jax.train --config=configs/rainbow_atari.py
    python -m seer_jax.train --config=configs/rainbow_atari.py:constrained --config.env.task=krull

Presets, after the colon:
  paper        the compute-efficiency setting: 500,000 agent steps, replay of as many rows.
  baseline     the same without SEER.
  constrained  replay of 10,000 frames (0.07 GB) that grows to 30,625 latents at the freeze.
  quick        a few minutes on two cores; shows every part at work, not the paper's result.

Steps are agent steps; one is `env.action_repeat` frames. The paper publishes no freeze time but that
of Alien (about 50,000): treat `seer.freeze_step` as a parameter to choose.
"""

from ml_collections import config_dict


def get_config(preset: str = "paper") -> config_dict.ConfigDict:
    config = config_dict.create(
        seed=0,
        total_steps=500_000,
        learn_start=1600,
        num_envs=1,
        update_every=1,
        log_every=1000,
        eval_every=10_000,
        eval_episodes=10,
        checkpoint_every=50_000,
        params_every=0,
        on_nan="stop",
        env=dict(
            suite="atari",
            task="ms_pacman",
            protocol="seer",
            frame_stack=4,
            action_repeat=4,
            image_size=84,
            crop_size=84,
            # Items of the protocol; unset means as the protocol says.
            fire_reset=config_dict.placeholder(bool),
            full_actions=config_dict.placeholder(bool),
            sticky_prob=config_dict.placeholder(float),
            noop_max=config_dict.placeholder(int),
            life_loss_terminal=config_dict.placeholder(bool),
            clip_rewards=config_dict.placeholder(bool),
            max_episode_steps=config_dict.placeholder(int),
        ),
        agent=dict(
            name="rainbow",
            batch_size=32,
            n_step=20,
            discount=0.99,
            learning_rate=1e-4,
            adam_eps=1.5e-4,
            max_grad_norm=10.0,
            target_update_every=2000,
            num_atoms=51,
            v_max=10.0,
            hidden=256,
            noise_std=0.1,
            eval_epsilon=0.001,
        ),
        encoder=dict(name="data_efficient", compute_dtype="float32"),
        replay=dict(
            capacity=500_000,
            grow_after_freeze=False,
            allow_more_memory=False,
            latent_dtype="float32",
            prioritized=False,
            priority_exponent=0.5,
            importance_start=0.4,
        ),
        seer=dict(
            enabled=True,
            freeze_step=50_000,
            num_copies=1,
            freeze_through=config_dict.placeholder(str),
            sync_target_heads=False,
            init_from=config_dict.placeholder(str),
        ),
    )
    known = presets()
    if preset not in known:
        raise ValueError(f"preset {preset!r} is unknown; it is one of {', '.join(known)}")
    config.update(known[preset])
    return config.lock()


def presets() -> dict[str, dict]:
    return {
        "paper": {},
        "baseline": {"seer": {"enabled": False}},
        "constrained": {"replay": {"capacity": 10_000, "grow_after_freeze": True}},
        "quick": {
            "total_steps": 20_000,
            "num_envs": 4,
            "eval_every": 10_000,
            "checkpoint_every": 10_000,
            "env": {"task": "krull"},
            "agent": {"n_step": 10, "learning_rate": 3e-4, "target_update_every": 1000},
            "replay": {"capacity": 20_000},
            "seer": {"freeze_step": 8000},
        },
    }
