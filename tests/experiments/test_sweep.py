"""The command `experiments.sweep`."""

import pytest

from experiments import sweep
from experiments.runner import pool
from experiments.runner.process import Outcome
from seer_jax import cli
from tests.helpers.record_factories import make_line, write_run_dir

CONFIG = "configs/rainbow_atari.py:quick"


def test_sweep_trains_every_combination_with_every_seed():
    grid = sweep.parse_grid(["config.seer.freeze_step=10,20", "config.replay.latent_dtype=float16,bfloat16"])
    runs = sweep.make_runs(CONFIG, {"total_steps": "100"}, grid, range(5, 7))
    assert len(runs) == len({run.name for run in runs}) == 8
    assert runs[-1].overrides == {
        "total_steps": "100",
        "seer.freeze_step": "20",
        "replay.latent_dtype": "bfloat16",
        "seed": 6,
    }
    assert runs[-1].arm == "seer.freeze_step=20, replay.latent_dtype=bfloat16"


@pytest.mark.parametrize("text", ["seer.freeze_step=1", "config.seed", "config.seed=1,", "config.seed="])
def test_grid_of_another_form_is_refused(text):
    with pytest.raises(cli.UsageError, match="does not have the form"):
        sweep.parse_grid([text])


def test_grid_over_seeds_is_refused():
    with pytest.raises(cli.UsageError, match="--seeds=N"):
        sweep.parse_grid(["config.seed=1,2"])


def test_grid_with_a_field_twice_is_refused():
    with pytest.raises(cli.UsageError, match=r"names config\.total_steps twice"):
        sweep.parse_grid(["config.total_steps=1", "config.total_steps=2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=FILE is missing"),
        ([f"--config={CONFIG}", "--grid", "config.seer.nothing=1"], "nothing"),
        ([f"--config={CONFIG}", "--grid", "config.seer.freeze_step=8000,30000"], "never freeze"),
        ([f"--config={CONFIG}", "--seeds=0"], "seeds"),
        (
            [f"--config={CONFIG}", "--config.num_seeds=2"],
            "num_seeds=2: each seed of s0 is trained in a process of",
        ),
        (
            [f"--config={CONFIG}", "--grid", "config.num_seeds=1,2"],
            "and give their number with --seeds",
        ),
        (["--config", CONFIG, "--config.seer.freeze_step=3e4"], "never freeze"),
    ],
)
def test_invalid_sweep_is_refused_before_any_run_starts(arguments, message, tmp_path, capsys):
    assert sweep.main(["sweep", f"--out={tmp_path / 'out'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sweep_prints_results_in_80_columns_and_the_runs_that_failed(monkeypatch, tmp_path, capsys):
    def train_all(runs, out, **where):
        del where
        codes = {run.name: int(run.overrides["replay.latent_dtype"] == "float16") for run in runs}
        for run in runs:
            if not codes[run.name]:
                score = 100.0 * (1 + run.overrides["seed"])
                write_run_dir(out / "runs" / run.name, [make_line("end", 1000, score, full_steps_per_second=7.0)])
        return {name: Outcome(code, "bad") for name, code in codes.items()}

    monkeypatch.setattr(pool, "train_all", train_all)
    grid = ["--grid=config.seer.freeze_step=4000,8000", "--grid=config.replay.latent_dtype=float32,float16"]
    assert sweep.main(["sweep", f"--config={CONFIG}", f"--out={tmp_path}", "--seeds=2", *grid]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("failed with exit code 1: bad") == 4
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if "4000" in line and "float32" in line and "2 " in line and "150.0 ± 70.7" in line]
    assert [line for line in lines if "8000" in line and "float16" in line and "0 " in line]


def test_sweep_whose_run_is_damaged_ends_with_one_line(monkeypatch, tmp_path, capsys):
    def train_all(runs, out, **where):
        del where
        for run in runs:
            write_run_dir(out / "runs" / run.name, [])
            (out / "runs" / run.name / "metrics.jsonl").write_text('{"kind": "tr\n{"kind": "end"}\n')
        return {run.name: Outcome(0) for run in runs}

    monkeypatch.setattr(pool, "train_all", train_all)
    assert sweep.main(["sweep", f"--config={CONFIG}", f"--out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "s0 is a damaged run (line 1 of metrics.jsonl is not a record)" in error
    assert error.count("\n") == 1
