"""The examples, on real environments and with shorter runs."""

import importlib.util
from pathlib import Path

from seer_jax.configs import rainbow_atari

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_from_python_trains_logs_and_plays(monkeypatch, tmp_path, capsys):
    example = load("from_python")
    config = example.make_config()
    tiny = {"total_steps": 160, "learn_start": 60, "num_envs": 2, "seer.freeze_step": 100, "eval_every": 160}
    tiny |= {"eval_episodes": 1, "env.max_episode_steps": 30, "agent.hidden": 8, "agent.batch_size": 4}
    config.update_from_flattened_dict(tiny)
    monkeypatch.setattr(example, "make_config", lambda: config)
    monkeypatch.setattr(example, "STEPS_TO_PLAY", 20)
    example.main(tmp_path / "run")
    out = capsys.readouterr().out
    assert "freeze after 100 agent steps" in out or "freeze after 101 agent steps" in out
    assert "score in an environment of one's own: " in out


def test_from_python_starts_from_a_shipped_preset():
    quick, example = rainbow_atari.get_config("quick"), load("from_python").make_config()
    assert quick.agent == example.agent
    assert quick.env.task != example.env.task
