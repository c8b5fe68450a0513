"""CURL-SAC with SEER on DeepMind Control, from pixels.

    python -m seer_jax.train --config=configs/curl_dmc.py
    python -m seer_jax.train --config=configs/curl_dmc.py:constrained,walker-walk

Presets, after the colon, with the task behind a comma if it is not cartpole-swingup:
  paper            the compute-efficiency setting: a row of replay for each agent step.
  baseline         the same without SEER.
  constrained      replay of 1000 or 2000 frames (0.03 or 0.06 GB) that grows 18.75 times at the freeze.
  half_resolution  50 pixels cropped to 42 instead of 100 to 84, without SEER.
  impala           the encoder of 15 convolutions.
  quick            short and small; shows every part at work, not the paper's result.

Steps are agent steps; one is `env.action_repeat` control steps (cartpole 8, finger and walker 2, others 4).
The paper publishes no freeze time but cartpole's (10,000): treat `seer.freeze_step` as a parameter to choose.
"""

from ml_collections import config_dict

# Agent steps, and frames of the constrained replay. Runs end after 500,000 control steps, cartpole's as published.
TASKS = {
    "cartpole-swingup": (80_000, 1000),
    "finger-spin": (250_000, 1000),
    "reacher-easy": (125_000, 2000),
    "walker-walk": (250_000, 2000),
    "hopper-hop": (125_000, 2000),
    "walker-stand": (250_000, 2000),
    "cheetah-run": (125_000, 2000),
    "ball_in_cup-catch": (125_000, 2000),
}


def get_config(preset_and_task: str = "paper,cartpole-swingup") -> config_dict.ConfigDict:
    preset, _, task = preset_and_task.partition(",")
    task = task or "cartpole-swingup"
    if task not in TASKS:
        raise ValueError(f"task {task!r} has no preset; set --config.env.task, or choose from {', '.join(TASKS)}")
    total_steps, constrained_capacity = TASKS[task]
    config = config_dict.create(
        seed=0,
        total_steps=total_steps,
        learn_start=1000,
        num_envs=1,
        update_every=1,
        log_every=1000,
        eval_every=10_000,
        eval_episodes=10,
        checkpoint_every=10_000,
        params_every=0,
        on_nan="stop",
        env=dict(
            suite="dmc",
            task=task,
            protocol="seer",
            backend="envpool",
            render_quality="full",
            frame_stack=3,
            image_size=100,
            crop_size=84,
            # Items of the protocol; unset means as the protocol says.
            action_repeat=config_dict.placeholder(int),
            camera_id=config_dict.placeholder(int),
        ),
        agent=dict(
            name="curl_sac",
            batch_size=128,
            n_step=1,
            discount=0.99,
            learning_rate=1e-3,
            hidden=1024,
            latent_size=50,
            actor_update_every=2,
            target_update_every=2,
            critic_tau=0.01,
            encoder_tau=0.05,
            initial_temperature=0.1,
            temperature_learning_rate=1e-4,
            temperature_adam_b1=0.5,
            log_std_min=-10.0,
            log_std_max=2.0,
            random_steps=1000,
        ),
        encoder=dict(name="sac_ae", compute_dtype="float32"),
        replay=dict(
            capacity=total_steps,
            grow_after_freeze=False,
            allow_more_memory=False,
            latent_dtype="float32",
            prioritized=False,
            priority_exponent=0.5,
            importance_start=0.4,
        ),
        seer=dict(
            enabled=True,
            freeze_step=10_000,
            num_copies=4,
            freeze_through=config_dict.placeholder(str),
            sync_target_heads=False,
            init_from=config_dict.placeholder(str),
        ),
    )
    known = presets(constrained_capacity)
    if preset not in known:
        raise ValueError(f"preset {preset!r} is unknown; it is one of {', '.join(known)}")
    config.update(known[preset])
    return config.lock()


def presets(constrained_capacity: int) -> dict[str, dict]:
    small_images = {"image_size": 50, "crop_size": 42}
    return {
        "paper": {},
        "baseline": {"seer": {"enabled": False}},
        "constrained": {"replay": {"capacity": constrained_capacity, "grow_after_freeze": True}},
        "half_resolution": {"env": small_images, "seer": {"enabled": False}},
        "impala": {"encoder": {"name": "impala"}},
        "quick": {
            "total_steps": 6000,
            "learn_start": 500,
            "eval_every": 3000,
            "eval_episodes": 4,
            "checkpoint_every": 3000,
            "log_every": 500,
            "env": small_images | {"render_quality": "fast"},
            "agent": {"batch_size": 64, "learning_rate": 5e-4, "hidden": 256, "random_steps": 500},
            "replay": {"capacity": 6000},
            "seer": {"freeze_step": 1800},
        },
    }
