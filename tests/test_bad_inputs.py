"""Inputs that cannot be meant, or hardly: each is refused, or warned of, in one line that says what is wrong.

Each row holds what is given and what the line must say. Values that a command line cannot give are given from Python.
"""

import sys

import pytest
from ml_collections import ConfigDict

from configs import curl_dmc, rainbow_atari
from experiments import run, sweep
from experiments.report import __main__ as report
from experiments.runner import pool
from seer_jax import doctor, evaluate, train
from seer_jax.envs import dmc
from seer_jax.run import rules
from seer_jax.run.loop import Loop
from seer_jax.run.resolve import ConfigError, resolve
from tests.helpers.runs import only_error_line

NAN, INFINITE = float("nan"), float("inf")
HAIKU = "haiku:tests.helpers.tiny_encoder"

# Changes of the preset `paper` of Rainbow.
RAINBOW_VALUES = [
    # A value that is of no use by itself: of another type, out of bounds, not finite, empty, huge.
    ({"seed": True}, "seed=True is not an integer"),
    ({"seed": 1.0}, "seed=1.0 is not an integer"),
    ({"seed": "1"}, "seed='1' is not an integer"),
    ({"seed": None}, "seed=None is not an integer"),
    ({"seed": [1]}, "seed=[1] is not an integer"),
    ({"seed": {}}, "seed={} is not an integer"),
    ({"seed": NAN}, "seed=nan is not an integer"),
    ({"seed": b"1"}, "holds a value that is neither number, text nor section"),
    ({"seed": 1 + 2j}, "holds a value that is neither number, text nor section"),
    ({"seed": 10**400}, "0000 is out of range; it lies between 0 and 2147483647"),
    ({"seed": -1}, "seed=-1 is out of range; it lies between 0 and 2147483647"),
    ({"seed": 2**31}, "seed=2147483648 is out of range"),
    ({"total_steps": 0}, "total_steps=0 is out of range"),
    ({"total_steps": 2**31}, "total_steps=2147483648 is out of range"),
    ({"learn_start": 0}, "learn_start=0 is out of range"),
    ({"num_envs": 0}, "num_envs=0 is out of range"),
    ({"num_envs": 4097}, "num_envs=4097 is out of range; it lies between 1 and 4096"),
    ({"replay_ratio": 0.0}, "replay_ratio=0.0 is out of range"),
    ({"replay_ratio": 65.0}, "replay_ratio=65.0 is out of range"),
    ({"seer.replay_ratio": "four"}, "seer.replay_ratio='four' is not a number"),
    ({"update_every": 4}, "update_every is gone: set replay_ratio, the updates per agent step, to 1 / update_every"),
    ({"log_every": 0}, "log_every=0 is out of range"),
    ({"eval_every": 0}, "eval_every=0 is out of range"),
    ({"eval_episodes": 0}, "eval_episodes=0 is out of range"),
    ({"eval_episodes": 1001}, "eval_episodes=1001 is out of range"),
    ({"checkpoint_every": -1}, "checkpoint_every=-1 is out of range"),
    ({"checkpoint_every": 1.5}, "checkpoint_every=1.5 is not an integer"),
    ({"params_every": -1}, "params_every=-1 is out of range"),
    ({"on_nan": "cry"}, "on_nan='cry' is unknown; choose one of stop, stop_seed, ignore"),
    ({"on_nan": None}, "on_nan=None is unknown"),
    ({"num_seeds": 0}, "num_seeds=0 is out of range; it lies between 1 and 1024"),
    ({"num_seeds": 1025}, "num_seeds=1025 is out of range"),
    ({"num_seeds": 2.0}, "num_seeds=2.0 is not an integer"),
    ({"mesh.seed": 0}, "mesh.seed=0 is out of range"),
    ({"mesh.data": 0}, "mesh.data=0 is out of range"),
    ({"mesh": None}, "mesh=None is not a section"),
    ({"env.suite": "procgen"}, "env.suite='procgen' is unknown; choose one of atari, dmc"),
    ({"env.suite": ["atari"]}, "env.suite=['atari'] is unknown"),
    ({"env.suite": None}, "env.suite is missing; start from a file in configs/"),
    ({"env.task": None}, "env.task=None is not a name"),
    ({"env.task": 3}, "env.task=3 is not a name"),
    ({"env.task": ["pong"]}, "env.task=['pong'] is not a name"),
    ({"env.task": ""}, "env.task='' is no Atari game of EnvPool; choose one of adventure"),
    ({"env.task": "a\nb"}, r"env.task='a\nb' is no Atari game"),
    ({"env.task": "ms_pac_man"}, "did you mean ms_pacman"),
    ({"env.task": "walker-walk"}, "is no Atari game"),
    ({"env.task": "PongoNoFrameskip-v4"}, "is no Atari game of EnvPool; "),
    ({"env.protocol": "dqn"}, "env.protocol='dqn' is unknown; choose one of seer, machado"),
    ({"env.image_size": 4}, "env.image_size=4 is out of range; it lies between 8 and 256"),
    ({"env.image_size": 257}, "env.image_size=257 is out of range"),
    ({"env.image_size": 84.0}, "env.image_size=84.0 is not an integer"),
    ({"env.frame_stack": 0}, "env.frame_stack=0 is out of range"),
    ({"env.frame_stack": 17}, "env.frame_stack=17 is out of range"),
    ({"env.action_repeat": 61}, "env.action_repeat=61 is out of range"),
    ({"env.noop_max": 0}, "env.noop_max=0 is out of range"),
    ({"env.max_episode_steps": 0}, "env.max_episode_steps=0 is out of range"),
    ({"env.sticky_prob": 1.5}, "env.sticky_prob=1.5 is out of range; it lies between 0.0 and 0.99"),
    ({"env.sticky_prob": NAN}, "env.sticky_prob=nan is out of range"),
    ({"env.fire_reset": 1}, "env.fire_reset=1 is neither True nor False"),
    ({"env.full_actions": "yes"}, "env.full_actions='yes' is neither True nor False"),
    ({"agent.name": "dqn"}, "agent.name='dqn' is unknown; choose one of rainbow"),
    ({"agent.name": {}}, "agent.name={} is unknown"),
    ({"agent.name": None}, "agent.name is missing; start from a file in configs/"),
    ({"agent.batch_size": 0}, "agent.batch_size=0 is out of range"),
    ({"agent.batch_size": 65_537}, "agent.batch_size=65537 is out of range"),
    ({"agent.n_step": 0}, "agent.n_step=0 is out of range"),
    ({"agent.n_step": 1001}, "agent.n_step=1001 is out of range"),
    ({"agent.discount": 1.01}, "agent.discount=1.01 is out of range; it lies between 0.0 and 1.0"),
    ({"agent.discount": -0.1}, "agent.discount=-0.1 is out of range"),
    ({"agent.discount": NAN}, "agent.discount=nan is out of range"),
    ({"agent.discount": "0.99"}, "agent.discount='0.99' is not a number"),
    ({"agent.learning_rate": 0.0}, "agent.learning_rate=0.0 is out of range"),
    ({"agent.learning_rate": INFINITE}, "agent.learning_rate=inf is out of range"),
    ({"agent.hidden": 0}, "agent.hidden=0 is out of range"),
    ({"agent.adam_eps": 0.0}, "agent.adam_eps=0.0 is out of range"),
    ({"agent.max_grad_norm": 0.0}, "agent.max_grad_norm=0.0 is out of range"),
    ({"agent.num_atoms": 1}, "agent.num_atoms=1 is out of range"),
    ({"agent.v_max": -10.0}, "agent.v_max=-10.0 is out of range"),
    ({"agent.v_max": INFINITE}, "agent.v_max=inf is out of range"),
    ({"agent.noise_std": -1.0}, "agent.noise_std=-1.0 is out of range"),
    ({"agent.eval_epsilon": 2.0}, "agent.eval_epsilon=2.0 is out of range"),
    ({"agent.target_update_every": 0}, "agent.target_update_every=0 is out of range"),
    ({"encoder.name": "resnet"}, "encoder.name='resnet' is unknown; choose one of data_efficient, canonical"),
    ({"encoder.name": ""}, "encoder.name='' is unknown"),
    ({"encoder.name": 3}, "encoder.name=3 is not a name"),
    ({"encoder.compute_dtype": "int8"}, "encoder.compute_dtype='int8' is unknown; choose one of float32, bfloat16"),
    ({"replay.capacity": 0}, "replay.capacity=0 is out of range"),
    ({"replay.capacity": 1e6}, "replay.capacity=1000000.0 is not an integer"),
    (
        {"replay.latent_dtype": "int8"},
        "replay.latent_dtype='int8' is unknown; choose one of float32, bfloat16, float16",
    ),
    ({"replay.prioritized": "True"}, "replay.prioritized='True' is neither True nor False"),
    ({"replay.priority_exponent": 2.0}, "replay.priority_exponent=2.0 is out of range"),
    ({"replay.importance_start": -1.0}, "replay.importance_start=-1.0 is out of range"),
    ({"seer.enabled": None}, "seer.enabled=None is neither True nor False"),
    ({"seer.freeze_step": -1}, "seer.freeze_step=-1 is out of range"),
    ({"seer.freeze_step": 5e4}, "seer.freeze_step=50000.0 is not an integer"),
    ({"seer.num_copies": 257}, "seer.num_copies=257 is out of range"),
    ({"seer.freeze_through": 3}, "seer.freeze_through=3 is not a name"),
    ({"seer.init_from": ""}, "seer.init_from is empty; give it a value, or leave it unset"),
    ({"seer.init_from": "nowhere"}, "seer.init_from=nowhere is not the directory of a run"),
    # Sections that are none, fields that do not exist.
    ({"env": []}, "env.suite is missing"),
    ({"agent": None}, "agent.name is missing"),
    ({"replay": None}, "replay=None is not a section; start from a file in configs/"),
    ({"seer": True}, "seer=True is not a section"),
    ({"encoder": "impala"}, "encoder='impala' is not a section"),
    ({"freeze_step": 1}, "there is no field freeze_step; did you mean seer.freeze_step?"),
    ({"seer.freeze_stp": 1}, "there is no field seer.freeze_stp; did you mean seer.freeze_step?"),
    ({"agent.critic_tau": 0.1}, "there is no field agent.critic_tau"),
    ({"env.camera_id": 0}, "there is no field env.camera_id"),
    # Values that do not fit together.
    ({"agent.name": "curl_sac"}, "needs continuous actions, and those of env.suite=atari are discrete; use rainbow"),
    ({"encoder.name": "haiku:"}, "does not look like haiku:package.module:function"),
    ({"encoder.name": "haiku:nothing.at.all:f"}, "cannot be imported"),
    ({"encoder.name": "haiku:os:nothing"}, "cannot be imported: AttributeError"),
    ({"encoder.name": "haiku:os:getcwd"}, "must be what hk.transform returned"),
    ({"encoder.name": f"{HAIKU}:failing"}, "cannot read 84-pixel images: RuntimeError: images of 4 channels"),
    ({"env.image_size": 20, "env.crop_size": 20}, "env.crop_size=20 is too small for encoder.name=data_efficient"),
    ({"env.image_size": 8, "env.crop_size": 8, "seer.freeze_through": "conv1"}, "env.crop_size=8 is too small"),
    ({"env.crop_size": 20}, "env.crop_size=20 is too small"),
    ({"env.crop_size": 90}, "env.crop_size=90 does not fit into env.image_size=84"),
    ({"seer.freeze_through": "conv9"}, "is not a stage of data_efficient; choose one of conv1, conv2"),
    ({"seer.num_copies": 4}, "seer.num_copies=4: agent.name=rainbow stores one latent of a row"),
    ({"agent.v_max": 0.9}, "agent.v_max=0.9 is below 1, the reward of one step with env.clip_rewards"),
    ({"agent.v_max": 1e-5}, "agent.v_max=1e-05 is below 1"),
    ({"agent.batch_size": 1000, "replay.capacity": 500}, "agent.batch_size=1000 transitions are more than the replay"),
    ({"num_seeds": 3, "mesh.seed": 2}, "num_seeds=3 is not a multiple of mesh.seed=2"),
    ({"num_envs": 3, "mesh.data": 2}, "num_envs=3 is not a multiple of mesh.data=2"),
    ({"num_envs": 2, "mesh.data": 2, "agent.batch_size": 33}, "agent.batch_size=33 is not a multiple of mesh.data=2"),
    ({"num_seeds": 64, "mesh.seed": 64}, "mesh.seed=64 and mesh.data=1 need 64 devices, and there are 1; lower one"),
    ({"seed": 2**31 - 2, "num_seeds": 3}, "the last seed would be 2147483648, and 2147483647 is the largest"),
    ({"num_seeds": 2, "num_envs": 4, "seer.freeze_step": 49_997}, "num_envs=4: seeds that are trained together"),
    (
        {"num_seeds": 2, "num_envs": 4, "seer.freeze_step": 50_003},
        "could not do both in the same order; set seer",
    ),
    ({"num_seeds": 2, "num_envs": 2, "total_steps": 499_999}, "in the same order; set total_steps=500000"),
    ({"num_envs": 4096, "replay.capacity": 4096}, "raise it to at least 86016"),
    ({"learn_start": 10}, "learn_start=10 comes before the first 20-step window"),
    ({"agent.n_step": 1000, "num_envs": 2}, "raise it to at least 2002"),
    ({"learn_start": 499_999}, "nothing would be learned"),
    ({"seer.freeze_step": 500_000}, "the encoder would never freeze"),
    (
        {"seer.replay_ratio": 0.001, "total_steps": 51_999, "seer.freeze_step": 50_000},
        "seer.freeze_step=50000 is too close to total_steps=51999: nothing would be learned after it",
    ),
    ({"replay_ratio": 0.001, "total_steps": 1900}, "replay_ratio=0.001; raise total_steps or replay_ratio"),
    ({"num_envs": 4, "total_steps": 4000, "seer.freeze_step": 3999}, "the encoder would never freeze"),
    ({"seer.freeze_step": 0}, "an untrained encoder would freeze"),
    ({"seer.freeze_step": 1601}, "raise it to at least 1602"),
    ({"replay.capacity": 20}, "replay.capacity=20 cannot hold one 20-step window"),
    ({"encoder.name": "canonical"}, "replay.capacity=500,000 would shrink to 281,250 at the freeze"),
    (
        {"encoder.name": "canonical", "env.image_size": 160, "env.crop_size": 160, "replay.latent_dtype": "bfloat16"},
        "freeze; use a smaller",
    ),
]

# Changes of the preset `paper` of CURL-SAC.
CURL_VALUES = [
    ({"env.task": "walker-wolk"}, "did you mean walker-walk"),
    ({"env.task": "pong"}, "is no task of the DeepMind Control suite"),
    ({"env.task": "lqr-lqr_2_1"}, "env.task=lqr-lqr_2_1 has actuators without bounds"),
    ({"env.task": "lqr-lqr_6_2", "env.backend": "dm_control"}, "env.task=lqr-lqr_6_2 has actuators without bounds"),
    ({"env.backend": "mujoco"}, "env.backend='mujoco' is unknown; choose one of envpool, dm_control"),
    ({"env.render_quality": "low"}, "env.render_quality='low' is unknown; choose one of full, fast"),
    ({"env.action_repeat": 0}, "env.action_repeat=0 is out of range"),
    ({"env.camera_id": -1}, "env.camera_id=-1 is out of range"),
    ({"env.crop_size": 101}, "env.crop_size=101 does not fit into env.image_size=100"),
    ({"env.frame_stack": 11}, "gives the encoder 33 channels, and the first convolution of encoder.name=sac_ae"),
    ({"env.frame_stack": 6, "encoder.name": "impala"}, "takes at most 16; lower it to at most 5"),
    ({"agent.name": "rainbow"}, "needs discrete actions, and those of env.suite=dmc are continuous; use curl_sac"),
    ({"agent.critic_tau": 0.0}, "agent.critic_tau=0.0 is out of range; it lies between 1e-06 and 1.0"),
    ({"agent.critic_tau": 1.5}, "agent.critic_tau=1.5 is out of range"),
    ({"agent.encoder_tau": 0.0}, "agent.encoder_tau=0.0 is out of range"),
    ({"agent.initial_temperature": 0.0}, "agent.initial_temperature=0.0 is out of range"),
    ({"agent.temperature_learning_rate": -1e-4}, "agent.temperature_learning_rate=-0.0001 is out of range"),
    ({"agent.temperature_adam_b1": 1.0}, "agent.temperature_adam_b1=1.0 is out of range"),
    ({"agent.latent_size": 0}, "agent.latent_size=0 is out of range"),
    ({"agent.log_std_min": "low"}, "agent.log_std_min='low' is not a number"),
    ({"agent.log_std_min": 3.0}, "agent.log_std_min=3.0 is above agent.log_std_max=2.0"),
    ({"agent.random_steps": -1}, "agent.random_steps=-1 is out of range"),
    ({"agent.updates_per_actor_update": 9}, "agent.updates_per_actor_update=9 is out of range"),
    ({"agent.updates_per_target_update": 0}, "agent.updates_per_target_update=0 is out of range"),
    ({"agent.updates_per_actor_update": 7, "agent.updates_per_target_update": 8}, "repeats only after 56 updates"),
    (
        {"agent.updates_per_target_update": 8, "learn_start": 79_990, "seer.enabled": False},
        "nothing would be learned with replay_ratio=1; lower it to at most 79984",
    ),
    ({"agent.target_update_every": 4}, "agent.target_update_every is called agent.updates_per_target_update now, and"),
    ({"seer.freeze_through": "conv5"}, "is not a stage of sac_ae; choose one of conv1, conv2, conv3, conv4, dense"),
    ({"seer.freeze_through": "conv4"}, "freeze up to a later stage than seer.freeze_through=conv4"),
]

# Changes of either preset that can run, and what their only warning says.
WARNED = [
    (rainbow_atari, {"agent.discount": 0.0}, "agent.discount=0 ignores all rewards after the next step"),
    (
        rainbow_atari,
        {"agent.v_max": 101.0},
        "agent.v_max=101.0 is above 100, which no return of clipped rewards exceeds",
    ),
    (rainbow_atari, {"agent.discount": 0.5}, "agent.v_max=10.0 is above 2"),
    (
        rainbow_atari,
        {"agent.target_update_every": 500_001},
        "agent.target_update_every=500001 has no multiple between learn_start=1600 and total_steps=500000",
    ),
    (rainbow_atari, {"agent.batch_size": 1601}, "agent.batch_size=1601 transitions are more than there are after"),
    (rainbow_atari, {"checkpoint_every": 1}, "each checkpoint truncates the running episodes, after 1 steps"),
    (rainbow_atari, {"checkpoint_every": 1999, "num_envs": 2}, "episodes, after 999 steps of an environment"),
    (rainbow_atari, {"num_seeds": 2}, "num_seeds=2 on the CPU are slower in one process than one after another"),
    (rainbow_atari, {"agent.noise_std": 0.0}, "agent.noise_std=0 leaves the agent without exploration"),
    (rainbow_atari, {"agent.reset_keep": 0.5}, "agent.reset_keep=0.5 has no effect without resets"),
    (
        rainbow_atari,
        {"seer.enabled": False, "seer.reset_heads_every": 100},
        "seer.reset_heads_every=100 has no effect without seer.enabled=True",
    ),
    (rainbow_atari, {"replay.importance_start": 1.0}, "replay.importance_start=1.0 has no effect without"),
    (curl_dmc, {"replay.priority_exponent": 0.0}, "replay.priority_exponent=0.0 has no effect without"),
    (curl_dmc, {"agent.discount": 1.0}, "agent.discount=1 gives tasks that never terminate unbounded values"),
    (curl_dmc, {"agent.discount": 0}, "agent.discount=0 ignores all rewards after the next step"),
    (curl_dmc, {"agent.random_steps": 80_000}, "agent.random_steps=80000 covers all total_steps=80000"),
    (curl_dmc, {"env.crop_size": 100}, "env.crop_size=100 is env.image_size: all random crops of an image are equal"),
    (curl_dmc, {"agent.batch_size": 1001}, "learn_start=1000 agent steps: the first updates repeat them"),
]

# Changes next to those, which nothing is said about.
ACCEPTED = [
    (rainbow_atari, {"agent.v_max": 1.0}),
    (rainbow_atari, {"agent.v_max": 0.5, "env.clip_rewards": False}),
    (rainbow_atari, {"agent.v_max": 1000.0, "agent.discount": 1.0}),
    (rainbow_atari, {"agent.target_update_every": 500_000}),
    (rainbow_atari, {"agent.batch_size": 1600}),
    (rainbow_atari, {"num_seeds": 2, "mesh.seed": 2}),
    (rainbow_atari, {"num_seeds": 2, "mesh.seed": 2, "num_envs": 2, "seer.freeze_step": 49_998}),
    (rainbow_atari, {"checkpoint_every": 0}),
    (rainbow_atari, {"replay.priority_exponent": 0.6, "replay.prioritized": True}),
    (rainbow_atari, {"checkpoint_every": 2000, "num_envs": 2}),
    (rainbow_atari, {"num_envs": 16, "checkpoint_every": 16_000}),
    (rainbow_atari, {"replay_ratio": 0.3, "num_envs": 3, "seer.replay_ratio": 8}),
    (rainbow_atari, {"seer.replay_ratio": 0.001, "total_steps": 52_000}),
    (rainbow_atari, {"agent.reset_keep": 0.5, "seer.reset_heads_every": 1000}),
    (curl_dmc, {"num_envs": 16, "replay_ratio": 4, "checkpoint_every": 16_000}),
    (curl_dmc, {"agent.random_steps": 79_999}),
    (curl_dmc, {"env.crop_size": 99}),
    (curl_dmc, {"env.frame_stack": 10}),
]

FILES = {
    "unclosed.py": "def get_config(:",
    "lines.py": "raise ValueError('one\\ntwo')",
    "exits.py": "import sys\nsys.exit(3)",
    "without.py": "x = 1",
    "number.py": "get_config = 3",
    "none.py": "def get_config(): return None",
    "dict.py": "def get_config(): return {}",
    "endless.py": "def get_config(): return get_config()",
    "bytes.py": "\xff\xfe",
    "object.py": "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'seed': object()})",
    "text": "text",
}
RECORDS = "{repository}/experiments/results/runs/cartpole-balance-curl-s0.jsonl"
ATARI = "--config=rainbow_atari"

# Command, arguments and what the line must say.
COMMANDS = [
    ("train", [], "--config=FILE is missing"),
    ("train", ["--config"], "Missing value for flag --config"),
    ("train", ["--config="], "--config= is neither the path of a file"),
    ("train", ["--config=:quick"], "--config= is neither the path of a file"),
    (
        "train",
        ["--config=rainbow"],
        "--config=rainbow is neither the path of a file (FILE.py) nor a shipped configuration",
    ),
    ("train", ["--config=nothing.py"], "No such file or directory: 'nothing.py'"),
    ("train", ["--config={files}/"], "Is a directory"),
    ("train", ["--config={files}/text"], "--config={files}/text: "),
    ("train", ["--config={files}/unclosed.py"], "SyntaxError"),
    ("train", ["--config={files}/lines.py"], "--config={files}/lines.py: ValueError: one; two"),
    ("train", ["--config={files}/exits.py"], "--config={files}/exits.py: SystemExit: 3"),
    ("train", ["--config={files}/without.py"], "has no attribute 'get_config'"),
    ("train", ["--config={files}/number.py"], "TypeError: 'int' object is not callable"),
    ("train", ["--config={files}/none.py"], "get_config gave None; it must give a ConfigDict"),
    ("train", ["--config={files}/dict.py"], "get_config gave a dict; it must give a ConfigDict"),
    ("train", ["--config={files}/endless.py"], "RecursionError"),
    ("train", ["--config={files}/bytes.py"], "SyntaxError"),
    ("train", ["--config={files}/object.py"], "holds a value that is neither number, text nor section"),
    ("train", [f"{ATARI}:"], "preset '' is unknown; choose one of paper"),
    ("train", [f"{ATARI}:QUICK"], "preset 'QUICK' is unknown; choose one of paper"),
    ("train", [f"{ATARI}:quick:quick"], "preset 'quick:quick' is unknown"),
    ("train", ["--config=curl_dmc:paper,walk"], "task 'walk' has no preset"),
    ("train", [ATARI, ATARI], "--config is given 2 times; give it once"),
    ("train", [ATARI, "--config=curl_dmc"], "--config is given 2 times"),
    ("train", [ATARI, "--config.seed=1", "--config.seed=2"], "--config.seed is given 2 times"),
    ("train", [ATARI, "--config.seed"], "Missing value for flag --config.seed"),
    ("train", [ATARI, "--config.seed="], "--config.seed="),
    ("train", [ATARI, "--config.seed", "--plan"], "--config.seed=--plan"),
    ("train", [ATARI, "--config.seed=abc"], "--config.seed=abc"),
    ("train", [ATARI, "--config.seed=1e20"], "seed=100000000000000000000 is out of range"),
    ("train", [ATARI, "--config.SEED=3"], "--config.SEED: there is no field SEED"),
    ("train", [ATARI, "--config.seed.x=3"], "--config.seed.x: there is no field seed.x"),
    ("train", [ATARI, "--config.=3"], "Could not parse ''"),
    ("train", [ATARI, "--config..seed=3"], "did you mean mesh.seed or seed?"),
    ("train", [ATARI, "--config.seed:3"], "Could not parse 'seed:3'"),
    ("train", [ATARI, "--config.env=3"], "--config.env=3"),
    ("train", [ATARI, "--config.env={}"], "env.suite is missing"),
    ("train", [ATARI, "--config.total_steps=nan"], "--config.total_steps=nan"),
    ("train", [ATARI, "--config.total_steps=1e400"], "--config.total_steps=1e400"),
    ("train", [ATARI, "--config.total_steps=1.5e0"], "--config.total_steps=1.5e0"),
    ("train", [ATARI, "--config.total_steps=1,000"], "--config.total_steps=1,000"),
    ("train", [ATARI, "--config.total_steps=500k"], "--config.total_steps=500k"),
    ("train", [ATARI, "--config.total_steps=-5"], "total_steps=-5 is out of range"),
    ("train", [ATARI, "--config.agent.learning_rate=nan"], "agent.learning_rate=nan is out of range"),
    ("train", [ATARI, "--config.agent.learning_rate=1e-400"], "agent.learning_rate=0.0 is out of range"),
    ("train", [ATARI, "--config.agent.learning_rate=0,001"], "--config.agent.learning_rate=0,001"),
    ("train", [ATARI, "--config.seer.enabled=maybe"], "--config.seer.enabled=maybe"),
    ("train", [ATARI, "--config.seer.enabled="], "--config.seer.enabled="),
    ("train", [ATARI, "--config.env.task", "--plan"], "env.task='--plan' is no Atari game"),
    ("train", [ATARI, "--Config.seed=3"], "Unknown command line flag 'Config.seed'"),
    ("train", [ATARI, "--seed=3"], "Unknown command line flag 'seed'"),
    ("train", [ATARI, "config.seed=3"], "unexpected argument 'config.seed=3'; flags look like --name=value"),
    ("train", [ATARI, ""], "unexpected argument ''"),
    ("train", [ATARI, "--flagfile=nothing"], "Unable to open flagfile"),
    ("train", [ATARI, "--plan=maybe"], "--plan=maybe"),
    ("train", [ATARI, "--run_dir"], "Missing value for flag --run_dir"),
    ("train", [ATARI, "--run_dir="], "--run_dir is empty; give it a value"),
    ("train", [ATARI, "--run_dir", "--plan"], "--run_dir has no value: --plan follows it"),
    ("train", [ATARI, "--run_dir=a", "--run_dir=b"], "--run_dir is given 2 times"),
    ("train", [ATARI, "--run_dir={files}"], "run_dir={files} already exists; name a new directory"),
    ("train", [ATARI, "--run_dir={files}/text"], "run_dir={files}/text is not a directory; name another"),
    ("train", [ATARI, "--run_dir={files}/text/run"], "run_dir={files}/text/run cannot be written: Not a directory"),
    ("train", [ATARI, f"--run_dir={'a' * 300}"], "cannot be written: File name too long"),
    ("train", ["--resume"], "--resume needs --run_dir=DIR"),
    ("train", ["--resume", "--run_dir=nowhere"], "run_dir={files}/nowhere holds no config.json"),
    ("train", ["--resume", "--run_dir={files}/text"], "run_dir={files}/text holds no config.json"),
    ("evaluate", [], "--run_dir=DIR is missing"),
    ("evaluate", ["--run_dir="], "--run_dir is empty"),
    ("evaluate", ["--run_dir=nowhere"], "--run_dir=nowhere is not the directory of a run"),
    ("evaluate", ["--run_dir={files}/text"], "--run_dir={files}/text is not the directory of a run"),
    ("evaluate", ["--run_dir=nowhere", "--episodes=0"], "--episodes=0"),
    ("evaluate", ["--run_dir=nowhere", "--episodes=1.5"], "--episodes=1.5"),
    ("evaluate", ["--run_dir=nowhere", "--episodes=1001"], "--episodes=1001"),
    ("evaluate", ["--run_dir=nowhere", "--config=nothing"], "--config=nothing is neither the path of a file"),
    ("evaluate", ["nowhere"], "unexpected argument 'nowhere'"),
    ("report", [], "RUN_DIRS are missing"),
    ("report", ["nowhere"], "nowhere is neither a run directory nor a file of records"),
    ("report", ["a\nb"], "a; b is neither a run directory nor a file of records"),
    ("report", ["nowhere", "--x=time"], "--x=time: value should be one of <env_steps|"),
    ("report", ["nowhere", "--budget=-1"], "--budget=-1"),
    ("report", ["nowhere", "--budget=nan"], "--budget=nan is not a finite number"),
    ("report", ["nowhere", "--budget=inf"], "--budget=inf is not a finite number"),
    ("report", [RECORDS, "--out={files}"], "--out={files} is a directory; name a file"),
    ("report", [RECORDS, "--out="], "--out is empty"),
    ("report", [RECORDS, "--out={files}/text/x.html"], "--out={files}/text/x.html cannot be written: "),
    ("sweep", [], "--config=FILE is missing"),
    ("sweep", [ATARI, "--grid="], "--grid '' does not have the form config.FIELD=VALUE,VALUE"),
    ("sweep", [ATARI, "--grid", "agent.n_step=1"], "--grid 'agent.n_step=1' does not have the form"),
    ("sweep", [ATARI, "--grid", "config.agent.n_step=1,,2"], "does not have the form"),
    ("sweep", [ATARI, "--grid", "config.agent.n_step=1, ,2"], "does not have the form"),
    ("sweep", [ATARI, "--grid", "config.agent.n_step=1, 1"], "names a value twice"),
    ("sweep", [ATARI, "--grid", "config.agent.n_step=1,x"], "--config.agent.n_step=x"),
    ("sweep", [ATARI, "--grid", "config.agent.n_step=1,0"], "agent.n_step=0 is out of range"),
    ("sweep", [ATARI, "--grid", "config.nothing=1,2"], "--config.nothing: there is no field nothing"),
    ("sweep", [ATARI, "--grid", "config.seed=1,2"], "set the number of seeds with --seeds=N"),
    ("sweep", [ATARI, *["--grid", "config.agent.n_step=1"] * 2], "--grid names config.agent.n_step twice"),
    (
        "sweep",
        [ATARI, "--config.agent.n_step=3", "--grid", "config.agent.n_step=1"],
        "agent.n_step is set by --config.agent.n_step and by --grid; leave one out",
    ),
    ("sweep", [ATARI, "--seeds=0"], "--seeds=0"),
    ("sweep", [ATARI, "--config.seed=2147483647", "--seeds=2"], "seed=2147483648 is out of range"),
    ("sweep", [ATARI, "--workers=-1"], "--workers=-1"),
    ("sweep", [ATARI, "--backend=slurm"], "--backend=slurm: value should be one of <local|ray>"),
    ("sweep", [ATARI, "--out={files}/text"], "--out={files}/text cannot be written: "),
    ("run", [], "NAME= is not an experiment; choose one of table1"),
    ("run", ["fig10", "--scale=smoke"], "NAME=fig10 is not an experiment"),
    ("run", ["fig3", "fig4", "--scale=smoke"], "NAME=fig3 fig4 is not an experiment"),
    ("run", ["fig3"], "--scale=None is missing or unknown; choose from smoke, cpu, paper"),
    ("run", ["fig3", "--scale=huge"], "--scale=huge is missing or unknown"),
    ("run", ["fig3", "--scale=smoke", "--workers=0"], "--workers=0"),
    ("run", ["fig3", "--scale=smoke", "--out={files}/text"], "--out={files}/text cannot be written: "),
    ("doctor", ["--fix"], "Unknown command line flag 'fix'"),
    ("doctor", ["all"], "unexpected argument 'all'"),
]
MAINS = {
    "train": train.main,
    "evaluate": evaluate.main,
    "report": report.main,
    "sweep": sweep.main,
    "run": run.main,
    "doctor": doctor.main,
}


def row_id(value):
    return str(value)[:60] if isinstance(value, dict | list) else ""


def changed(config_file, changes):
    values = config_file.get_config().to_dict()
    for name, value in changes.items():
        section, _, leaf = name.rpartition(".")
        (values[section] if section else values)[leaf] = value
    return ConfigDict(values)


@pytest.fixture
def nothing_starts(monkeypatch):
    """Lets a run that was not refused fail; lets any machine act like a CPU that renders."""

    def start(*args, **kwargs):
        raise AssertionError("it was not refused")

    monkeypatch.setattr(dmc, "require_rendering", lambda *args: None)
    monkeypatch.setattr(rules.jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(Loop, "__init__", start)
    monkeypatch.setattr(train.plan, "show", start)
    for backend in pool._BACKENDS.values():
        monkeypatch.setattr(backend, "train", start)


@pytest.mark.parametrize(
    ("config_file", "changes", "message"),
    [(rainbow_atari, *row) for row in RAINBOW_VALUES] + [(curl_dmc, *row) for row in CURL_VALUES],
    ids=row_id,
)
def test_bad_values_are_refused_in_one_line_and_nothing_is_written(
    config_file, changes, message, nothing_starts, tmp_path
):
    with pytest.raises((ConfigError, train.transfer.TransferError)) as caught:
        train.run(changed(config_file, changes), tmp_path / "run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("config_file", "changes", "message"), WARNED, ids=row_id)
def test_values_that_may_be_meant_are_warned_of_in_one_line(config_file, changes, message, nothing_starts):
    (warning,) = rules.warnings(resolve(changed(config_file, changes)))
    assert message in warning
    assert "\n" not in warning


@pytest.mark.parametrize(("config_file", "changes"), ACCEPTED, ids=row_id)
def test_values_just_within_the_rules_are_not_warned_of(config_file, changes, nothing_starts):
    assert rules.warnings(resolve(changed(config_file, changes))) == []


def test_many_updates_at_once_are_not_warned_of_on_accelerators(nothing_starts, monkeypatch):
    monkeypatch.setattr(rules.jax, "default_backend", lambda: "gpu")
    assert rules.warnings(resolve(changed(curl_dmc, {"num_envs": 64, "checkpoint_every": 0}))) == []


@pytest.mark.parametrize(("command", "arguments", "message"), COMMANDS, ids=row_id)
def test_bad_commands_end_in_one_line_and_exit_code_2_and_write_nothing(
    command, arguments, message, nothing_starts, tmp_path, monkeypatch, capsys, request
):
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    monkeypatch.chdir(tmp_path)

    def filled(text):
        return text.replace("{files}", str(tmp_path)).replace("{repository}", str(request.config.rootpath))

    assert MAINS[command]([command, *map(filled, arguments)]) == 2
    error = only_error_line(capsys)
    assert error.startswith(f"{command}: ")
    assert filled(message) in error
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == FILES.keys()


def test_file_that_cannot_be_read_ends_in_one_line_that_names_it(capsys):
    assert evaluate.main(["evaluate", f"--run_dir={'a' * 300}"]) == 1
    assert "File name too long: 'aaa" in only_error_line(capsys)


def test_names_of_an_earlier_configuration_file_are_forgotten(nothing_starts, tmp_path, capsys):
    (tmp_path / "without.py").write_text(FILES["without.py"])
    assert train.main(["train", ATARI, "--config.seed=-1"]) == 2
    assert train.main(["train", f"--config={tmp_path / 'without.py'}"]) == 2
    assert "has no attribute 'get_config'" in capsys.readouterr().err.splitlines()[1]


def test_warnings_are_printed_before_a_run_and_before_its_plan(tmp_path, monkeypatch, capsys):
    def start(*args):
        print("starts", file=sys.stderr)

    monkeypatch.setattr(Loop, "__init__", lambda *args, **kwargs: None)
    monkeypatch.setattr(Loop, "close", lambda loop: None)
    monkeypatch.setattr(Loop, "train", start)
    monkeypatch.setattr(train.plan, "show", start)
    for more in ([f"--run_dir={tmp_path / 'run'}"], ["--plan"]):
        assert train.main(["train", ATARI, "--config.agent.discount=0", *more]) == 0
        warning, then = capsys.readouterr().err.splitlines()
        assert warning.startswith("train: agent.discount=0 ignores all rewards")
        assert then == "starts"


def test_table_holds_150_distinct_inputs():
    rows = [*RAINBOW_VALUES, *CURL_VALUES, *WARNED, *COMMANDS]
    assert len({repr(row[:-1]) for row in rows}) == len(rows) >= 150
