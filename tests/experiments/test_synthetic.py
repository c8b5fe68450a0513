"""Environments of random frames, and the benchmark with them, in a process that cannot import EnvPool."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from dm_env import specs

from experiments.benchmark import synthetic

ROOT = pathlib.Path(__file__).parents[2]
# Tiny agents and short turns. The command is otherwise what users run.
BENCHMARK = """
import sys
from experiments.benchmark import __main__ as benchmark
from seer_jax.run.resolve import resolve
from tests.helpers.runs import tiny_config, tiny_control_config

measure, length = benchmark.measure, dict(num_envs=1, replay__capacity=600, total_steps=1200, seer__freeze_step=600)
configs = {"rainbow": tiny_config(**length), "curl": tiny_control_config(**length)}
benchmark.cases = lambda quick: {name: resolve(config) for name, config in configs.items()}
benchmark.measure = lambda ours, twin, turns, seconds: measure(ours, twin, turns=1, seconds=0.1)
measure_memory = benchmark._measure_handover_memory
benchmark._measure_handover_memory = lambda rows: measure_memory(700)
assert benchmark.main(["benchmark", "--quick", "--synthetic", "--json=JSON"]) == 0
print([name for name in sys.modules if name.split(".")[0] in ("envpool", "dm_control", "mujoco")])
"""


def test_synthetic_environment_sends_random_frames_in_one_episode():
    env = synthetic.SyntheticEnv(2, (5, 4, 3), specs.DiscreteArray(18))
    steps = [env.reset(), *(env.step(np.zeros(2, int)) for _ in range(100))]
    assert [step.first.tolist() for step in steps] == [[True] * 2] + [[False] * 2] * 100
    assert not any(step.last.any() or step.terminated.any() or step.truncated.any() for step in steps)
    assert {(step.frame.shape, step.frame.dtype, step.reward.dtype) for step in steps} == {
        ((2, 5, 4, 3), np.dtype(np.uint8), np.dtype(np.float32))
    }
    assert (steps[0].reward == 0).all()
    assert (steps[1].frame != steps[2].frame).mean() > 0.9


def test_synthetic_benchmark_runs_where_envpool_cannot_be_imported(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "envpool.py").write_text("raise ImportError('EnvPool was imported')")
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    code = BENCHMARK.replace("JSON", str(tmp_path / "results.json"))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"rainbow", "curl", "memory"}
    assert results["curl"]["end_to_end_frozen"]["torch_ms"] > 0
