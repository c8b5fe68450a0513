"""The benchmark for a day with a device at hand, on tiny agents on the CPU."""

import json

import pytest

from experiments.benchmark import device, synthetic
from seer_jax.envs.registry import SUITES
from seer_jax.run.resolve import resolve
from tests.helpers.runs import tiny_config, tiny_control_config

LENGTH = {"num_envs": 1, "replay__capacity": 600, "total_steps": 1200, "seer__freeze_step": 600, "checkpoint_every": 0}


@pytest.fixture
def tiny(monkeypatch):
    def make_config(agent, num_seeds):
        make = {"rainbow": tiny_config, "curl": tiny_control_config}[agent]
        return resolve(make(**LENGTH, num_seeds=num_seeds))

    for name, suite in SUITES.items():
        monkeypatch.setitem(SUITES, name, suite)  # put back afterwards
    monkeypatch.setattr(device, "make_config", make_config)
    synthetic.use_synthetic_suites()


def test_both_agents_are_measured_with_several_seeds_beside_an_eager_twin(tiny, monkeypatch, tmp_path, capsys):
    torch_side = pytest.importorskip("experiments.benchmark.torch_side", exc_type=ImportError)
    monkeypatch.setattr(torch_side, "modes", lambda backend: ("eager",))  # torch.compile takes minutes
    file = tmp_path / "device.json"
    assert device.main(["device", "--seeds=2", "--quick", f"--json={file}"]) == 0
    records = json.loads(file.read_text())
    measured = [(each["agent"], each["phase"], each["side"], each["num_seeds"]) for each in records]
    parts = [(agent, phase) for agent in ("rainbow", "curl") for phase in ("full", "frozen")]
    assert measured == [
        *((*part, "seer_jax", 2) for part in parts),
        *((*part, "PyTorch, eager", 1) for part in parts),
    ]
    for record in records:
        assert record["measured"]
        assert record["update_ms"] > 0
        assert record["steps_per_second"] == pytest.approx(1e3 * record["num_seeds"] / record["step_ms"])
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(records)


def test_nothing_begins_after_the_time_limit(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(device, "_LIMIT_SECONDS", 0.0)
    assert device.main(["device", "--seeds=1,8"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 8
    assert all(line.endswith("not measured") for line in lines)
