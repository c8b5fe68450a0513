"""Training many runs in processes, on this machine or with Ray, and the budget of a run."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import sys
import time

import pytest
from flax import traverse_util

from experiments.runner import display, local_backend, pool, ray_backend
from experiments.runner.process import Outcome
from experiments.runner.spec import Fork, Run
from seer_jax import train
from seer_jax.fields import ConfigError
from tests.helpers.record_factories import write_run_dir
from tests.helpers.runs import tiny_config

SLEEP_SECONDS = 0.7
# Prints when the process began and ended, and its cores.
SLEEP = f"""
import json, os, time
began = time.time()
time.sleep({SLEEP_SECONDS})
print(json.dumps([began, time.time(), sorted(os.sched_getaffinity(0))]), flush=True)
"""
# Prints `saved` on SIGTERM.
SAVE_ON_SIGTERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
print("started", flush=True)
time.sleep(60)
"""


@dataclasses.dataclass(frozen=True)
class FakeRun(Run):
    """A run whose process executes `code` instead of training."""

    config: str = "configs/rainbow_atari.py:quick"
    arm: str = "arm"
    overrides: dict = dataclasses.field(default_factory=dict)
    code: str = SLEEP
    memory: int = 10**9

    def command(self, out: pathlib.Path) -> list[str]:
        return [sys.executable, "-c", self.code]

    def estimate_memory(self) -> int:
        return self.memory


FAILING = f"{SLEEP}\nimport sys; sys.exit('error message')"


def spans(out: pathlib.Path, *names: str) -> list[tuple[float, float, list[int]]]:
    """Returns when each run began and ended, and its cores."""
    return [json.loads((out / "runs" / f"{name}.log").read_text().splitlines()[0]) for name in names]


def test_runs_have_disjoint_cores_and_go_on_after_one_fails(tmp_path):
    runs = [FakeRun("a"), FakeRun("bad", code=FAILING), FakeRun("c"), FakeRun("d")]
    outcomes = pool.train_all(runs, tmp_path, workers=2)
    assert outcomes == {"a": Outcome(0), "bad": Outcome(1, "error message"), "c": Outcome(0), "d": Outcome(0)}
    lived = spans(tmp_path, "a", "bad", "c", "d")
    for i, (began, ended, cores) in enumerate(lived):
        concurrent = [other for j, other in enumerate(lived) if j != i and other[0] < ended and began < other[1]]
        assert len(concurrent) <= 2
        if len(os.sched_getaffinity(0)) > 1:
            # A process gets its cores shortly after it starts, so short overlaps are not compared.
            overlapping = [other for other in concurrent if other[0] < ended - 0.4 and began < other[1] - 0.4]
            assert all(set(cores).isdisjoint(other[2]) for other in overlapping)


def test_runs_that_do_not_fit_in_memory_together_are_trained_in_turn(tmp_path):
    pool.train_all([FakeRun("a", memory=10**14), FakeRun("b", memory=10**14)], tmp_path, workers=2)
    (_, first_ended, _), (second_began, _, _) = sorted(spans(tmp_path, "a", "b"))
    assert second_began > first_ended


def test_run_starts_after_its_source_and_not_at_all_if_that_failed(tmp_path):
    runs = [
        FakeRun("child", source="parent"),
        FakeRun("parent"),
        FakeRun("orphan", source="bad"),
        FakeRun("bad", code=FAILING),
    ]
    outcomes = pool.train_all(runs, tmp_path, workers=2)
    parent, child = spans(tmp_path, "parent", "child")
    assert child[0] > parent[1]
    assert outcomes["orphan"] == Outcome(1, "bad, which it starts from, failed")
    assert not (tmp_path / "runs" / "orphan.log").exists()


def test_forks_start_after_their_trunks_and_forks_of_forks_after_those(tmp_path):
    runs = [
        FakeRun("second", fork=Fork("first", 20)),
        FakeRun("first", fork=Fork("trunk", 10)),
        FakeRun("other", fork=Fork("trunk", 20)),
        FakeRun("trunk"),
    ]
    assert set(pool.train_all(runs, tmp_path, workers=2).values()) == {Outcome(0)}
    trunk, first, other, second = spans(tmp_path, "trunk", "first", "other", "second")
    assert trunk[1] < min(first[0], other[0])
    assert first[1] < second[0]


def test_finished_run_is_not_trained_again(tmp_path):
    finished, unfinished = FakeRun("finished"), FakeRun("unfinished")
    write_run_dir(tmp_path / "runs" / "finished", [{"kind": "end"}], finished.load().to_dict())
    write_run_dir(tmp_path / "runs" / "unfinished", [{"kind": "train"}])
    assert pool.train_all([finished, unfinished], tmp_path) == {"finished": Outcome(0), "unfinished": Outcome(0)}
    assert not (tmp_path / "runs" / "finished.log").exists()
    assert (tmp_path / "runs" / "unfinished.log").exists()


def test_finished_run_of_another_configuration_is_refused(tmp_path):
    run = FakeRun("a")
    write_run_dir(tmp_path / "runs" / "a", [{"kind": "end"}], run.load().to_dict() | {"seed": 9})
    with pytest.raises(ConfigError, match=r"another configuration \(seed=9 there and 0 here"):
        pool.train_all([run], tmp_path)


def test_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"/file/out cannot be written: Not a directory; name another directory"):
        pool.train_all([FakeRun("a")], tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_interrupted_pool_lets_runs_write_their_checkpoints(monkeypatch, tmp_path, number, raised):
    log, sent = tmp_path / "runs" / "a.log", []

    def interrupt_once_started(seconds, sleep=time.sleep):
        del seconds
        sleep(0.05)
        if log.exists() and log.read_text() == "started\n" and not sent:
            sent.append(number)
            signal.raise_signal(number)

    monkeypatch.setattr(local_backend.time, "sleep", interrupt_once_started)
    with pytest.raises(raised):
        pool.train_all([FakeRun("a", code=SAVE_ON_SIGTERM)], tmp_path)
    assert log.read_text().split() == ["started", "saved"]


def test_ray_backend_returns_the_outcomes_of_the_local_one_and_restores_the_handler(
    tmp_path, monkeypatch, capsys, recwarn
):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.0)
    monkeypatch.setattr(ray_backend, "_POLL_SECONDS", 0.1)
    before = signal.getsignal(signal.SIGTERM)
    # The log of the last run is in a directory that does not exist, as for a machine that does not share the directory.
    runs = [FakeRun("a"), FakeRun("bad", code=FAILING), FakeRun("large", memory=10**15), FakeRun("missing/b")]
    try:
        outcomes = pool.train_all(runs, tmp_path, workers=2, backend="ray")
    finally:
        ray.shutdown()
    assert signal.getsignal(signal.SIGTERM) is before
    assert [str(each.message) for each in recwarn if each.category is RuntimeWarning] == []
    printed = capsys.readouterr().out
    # On a busy machine the first run to end may do so before the next line is printed.
    assert re.search(r"\b[01] of 4 runs finished, (?:1 failed, )?[12] running: ", printed), printed
    assert "    a: starting for " in printed
    assert "2 of 4 runs finished, 2 failed, 0 running\n" in printed
    assert outcomes.pop("missing/b").message.startswith("FileNotFoundError: ")
    assert outcomes == {"a": Outcome(0), "bad": Outcome(1, "error message"), "large": Outcome(0)}


def test_command_of_a_run_resumes_it_from_its_source(tmp_path):
    run = Run("a", "arm", "configs/x.py:quick", {"env.size": (1, 2), "seed": 3}, source="b")
    assert run.command(tmp_path)[1:] == [
        "-m",
        "seer_jax.train",
        "--config=configs/x.py:quick",
        "--config.env.size=1,2",
        "--config.seed=3",
        f"--config.seer.init_from={tmp_path / 'runs' / 'b'}",
        f"--run_dir={tmp_path / 'runs' / 'a'}",
        "--resume",
    ]


def test_command_of_a_fork_names_its_trunk_and_checkpoint(tmp_path):
    run = Run("a", "arm", "configs/x.py:quick", {}, fork=Fork("trunk", 20))
    assert run.command(tmp_path)[3:] == [
        f"--fork={tmp_path / 'runs' / 'trunk'}@20",
        "--config=configs/x.py:quick",
        f"--run_dir={tmp_path / 'runs' / 'a'}",
        "--resume",
    ]


def tiny_overrides() -> dict:
    tiny = traverse_util.flatten_dict(tiny_config().to_dict(), sep=".")
    return {name: value for name, value in tiny.items() if value is not None}


@pytest.mark.parametrize("enabled", [False, True])
def test_run_with_a_budget_ends_when_it_is_spent(fake_envs, tmp_path, enabled):
    overrides = tiny_overrides() | {"seer.enabled": enabled, "checkpoint_every": 0}
    budget = 1e9 if enabled else 1.5e9  # with SEER it is spent in the frozen phase
    run = Run("", "", "configs/rainbow_atari.py:quick", overrides, budget=budget)
    end = train.run(run.load(), tmp_path / "run")
    assert end["phase"] == ("frozen" if enabled else "full")
    # Acting before learning and the handover are not in the estimate; in so small a run they are a large part.
    assert 1.0 <= end["macs_total"] / budget < 1.15, end


def test_budget_with_an_automatic_freeze_is_refused():
    overrides = tiny_overrides() | {"seer.freeze_step": "auto"}
    with pytest.raises(ConfigError, match=r"^budget=1e\+09 with seer\.freeze_step=auto: .* to a number$"):
        Run("", "", "configs/rainbow_atari.py:quick", overrides, budget=1e9).load()


def test_budget_that_the_full_phase_exceeds_is_refused_with_its_cost(fake_envs):
    run = Run("", "", "configs/rainbow_atari.py:quick", tiny_overrides(), budget=1e6)
    with pytest.raises(ConfigError, match=r"^budget=1e\+06 multiply-accumulates is not more than .* alone") as refused:
        run.load()
    assert str(refused.value).endswith(" up to seer.freeze_step=200: raise the budget, or lower seer.freeze_step")
    (cost,) = re.findall(r"costs, (\S+) up to", str(refused.value))
    rounded_up = dataclasses.replace(run, budget=1.01 * float(cost))
    assert rounded_up.load().total_steps > 200
