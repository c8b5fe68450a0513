"""Every figure and table of the paper at the scale smoke, and the command `experiments.run`."""

import pytest

from experiments import run
from experiments.report import records
from experiments.runner import local_backend, pool
from experiments.runner.process import Outcome
from seer_jax import envs, train

NEEDS_EGL = ("fig2", "fig5", "fig6", "fig7", "fig8", "fig9", "latent_dtype")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A directory that all experiments of this module share, so that no run is trained twice."""
    return tmp_path_factory.mktemp("experiments")


def train_in_this_process(runs, out, workers, display):
    """Replaces `local_backend.train`, whose processes would each import and trace everything again."""
    del workers, display
    for each in runs:
        runs_dir = out / "runs"
        train.run(each.load(runs_dir), runs_dir / each.name, resume=True, fork=each.origin(runs_dir))
    return {each.name: Outcome(0) for each in runs}


@pytest.fixture(scope="module")
def fig3(out):
    """The page of figure 3, with the first of its runs trained in a process."""
    baseline, _ = run.EXPERIMENTS["fig3"].runs("smoke")
    assert pool.train_all([baseline], out) == {baseline.name: Outcome(0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_backend, "train", train_in_this_process)
        assert run.main(["run", "fig3", "--scale=smoke", f"--out={out}"]) == 0
    return out / "fig3.html"


@pytest.mark.parametrize("name", sorted(run.EXPERIMENTS))
def test_experiment_at_scale_smoke_writes_page_figures_and_records(name, fig3, out, monkeypatch, capsys):
    if name in NEEDS_EGL and not envs.HAS_EGL:
        pytest.skip("this machine has no EGL to render with")
    monkeypatch.setattr(local_backend, "train", train_in_this_process)
    assert run.main(["run", name, "--scale=smoke", f"--out={out}"]) == 0, capsys.readouterr().err
    runs = run.EXPERIMENTS[name].runs("smoke")
    kept = [records.read(out / "records" / name / f"{each.name}.jsonl") for each in runs]
    assert all(each.end is not None for each in kept)
    assert [each.arm for each in kept] == [each.arm for each in runs]
    page = (out / f"{name}.html").read_text()
    assert all(f"<td>{each.name}</td>" in page for each in runs)
    assert len(page) < 8e6
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    # Of each run of figure 8 three attention maps and a similarity; of the signals of a trunk one figure.
    assert len(list(out.glob(f"{name}-*.png"))) == {"fig8": 4 * len(runs), "freeze_time": 1, "replay_ratio": 1}.get(
        name, 0
    )
    assert (out / f"{name}.csv").read_text().count("\n") == 1 + sum(len(each.of_kind("eval")) for each in kept)


def test_page_of_finished_runs_is_written_again_without_training(fig3, out, monkeypatch):
    monkeypatch.setattr(local_backend, "train", pytest.fail)
    fig3.unlink()
    assert run.main(["run", "fig3", "--scale=smoke", f"--out={out}"]) == 0
    assert "python -m seer_jax.train --config=configs/rainbow_atari.py" in fig3.read_text()


def test_directory_with_runs_of_another_scale_is_refused(fig3, out, capsys):
    assert run.main(["run", "fig3", "--scale=cpu", f"--out={out}"]) == 2
    assert "holds a run of another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "NAME= is not an experiment"),
        (["fig1", "--scale=smoke"], "choose one of table1, fig2"),
        (["fig3", "fig4", "--scale=smoke"], "NAME=fig3 fig4 is not an experiment"),
        (["fig3"], "--scale=None is missing or unknown"),
        (["fig3", "--scale=huge"], "choose from smoke, cpu, paper"),
        (["fig3", "--scale=smoke", "--backend=slurm"], "backend"),
    ],
)
def test_invalid_command_is_refused_in_one_line(arguments, message, capsys):
    assert run.main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
