"""The page of a report, its figures and its command."""

import io
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from experiments.report import __main__ as command
from experiments.report import figures, page, styles
from experiments.report.content import Section
from experiments.report.curves import AXES, learning_curves
from experiments.report.settings import settings_table
from experiments.studies import encoder_analysis
from tests.helpers.record_factories import make_line, make_records, write_run_dir


def test_command_without_evaluated_runs_is_refused(tmp_path, capsys):
    write_run_dir(tmp_path / "run", [{"kind": "train"}])
    out = f"--out={tmp_path / 'r.html'}"
    assert command.main(["report", str(tmp_path / "run"), out]) == 2
    assert "none of the runs has an evaluation" in capsys.readouterr().err
    assert command.main(["report", out]) == 2
    assert "RUN_DIRS are missing" in capsys.readouterr().err
    assert command.main(["report", str(tmp_path / "nothing"), out]) == 2
    assert "neither a run directory" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_page_shows_small_videos_and_compares_at_the_budget(tmp_path, capsys):
    write_run_dir(tmp_path / "run", [make_line("eval", 100, 1.0), make_line("eval", 200, 7.0), {"kind": "train"}])
    videos = tmp_path / "run" / "videos"
    videos.mkdir()
    (videos / "small.mp4").write_bytes(b"12")
    (videos / "large.mp4").write_bytes(bytes(1_000_001))
    out = tmp_path / "out" / "page.html"
    arguments = [str(tmp_path / "run"), f"--out={out}", "--x=env_steps", "--budget=120", "--title=<b>&</b>"]
    assert command.main(["report", *arguments]) == 0, capsys.readouterr().err
    html = out.read_text()
    assert html.count("data:video/mp4;base64,") == 1
    assert "data:video/mp4;base64,MTI=" in html
    assert "<h2>Scores at 120 agent steps</h2>" in html
    assert "<title>&lt;b&gt;&amp;&lt;/b&gt;</title>" in html
    tables = out.with_suffix(".md").read_text()
    assert "| task | Rainbow + SEER | random play |\n| --- | ---: | ---: |\n| krull | 1.0 (1) | 1,598.0 |" in tables
    assert "Costs" not in tables  # the run is not finished
    rows = [line.split(",") for line in out.with_suffix(".csv").read_text().splitlines()]
    assert rows[0] == ["task", "arm", "seed", *AXES, "eval_return_mean"]
    assert [(row[3], row[-1]) for row in rows[1:]] == [("100.0", "1.0"), ("200.0", "7.0")]


def test_command_reads_run_directories_and_kept_files_alike(tmp_path):
    first, second = make_records("A", {100: 1.0}), make_records("A", {100: 2.0}, seed=1)
    csv_texts = []
    for run in (first, second):
        write_run_dir(tmp_path / run.name, run.lines, run.config)
        run.save(tmp_path / f"{run.name}.jsonl")
    for suffix in ("", ".jsonl"):
        paths = [str(tmp_path / f"{run.name}{suffix}") for run in (first, second)]
        assert command.main(["report", *paths, f"--out={tmp_path / 'page.html'}"]) == 0
        csv_texts.append((tmp_path / "page.csv").read_text())
    assert csv_texts[0].count("\n") == 3
    assert csv_texts[0].replace("Rainbow + SEER", "A") == csv_texts[1]


def test_runs_with_other_settings_get_arms_of_their_own():
    runs = [make_records("A", {1: 1.0}, seed=seed) for seed in (0, 1, 2)]
    for run, freeze_step in zip(runs, (100, 100, 200), strict=True):
        run.config["seer"] |= {"freeze_step": freeze_step}
    arms = [run.arm for run in command.label_arms([*runs, make_records("A", {1: 1.0}, task="qbert")])]
    assert arms == ["A, seer.freeze_step=100", "A, seer.freeze_step=100", "A, seer.freeze_step=200", "A"]


def test_runs_that_keep_other_checkpoints_are_of_one_arm():
    trunk, other = make_records("A", {1: 1.0}), make_records("A", {1: 1.0}, seed=1)
    trunk.config["checkpoint_at"] = [100, 200]
    assert [run.arm for run in command.label_arms([trunk, other])] == ["A", "A"]


def test_lines_of_a_plot_have_different_styles_also_without_colours():
    lines = [styles.nth(i) for i in range(140)]
    assert len(set(lines)) == 140
    assert len({(line.dash, line.marker) for line in lines[:18]}) >= 11
    assert all(first.color != second.color and first.marker != second.marker for first, second in pairwise(lines))
    curves = learning_curves([make_records(str(i), {100: 1.0}) for i in range(18)])
    assert figures.arm_styles(curves) == {str(i): styles.nth(i) for i in range(18)}


def test_similarities_of_eighteen_layers_have_different_styles_and_begin_with_the_encoder(monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "legend", lambda ax, **style: drawn.extend(ax.lines))
    layers = [f"actor/fc{i}" for i in range(9)] + [f"encoder/conv{i}" for i in range(9)]
    png = encoder_analysis.similarity_image({name: [(0, 0.9), (100, 0.97)] for name in layers})
    assert png.startswith(b"\x89PNG")
    assert [line.get_label() for line in drawn] == layers[9:] + layers[:9]
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in drawn}) == 18
    low, high = drawn[0].axes.get_ylim()
    assert 0.8 < low < 0.9
    assert high > 1.0


def test_table_of_settings_has_the_fields_in_which_arms_differ():
    runs = [make_records(arm, {1: 1.0}, seed=seed) for arm in ("A", "B") for seed in (0, 1)]
    assert settings_table(runs) is None
    for run, steps in zip(runs, (10, 20, 10, 20), strict=True):
        run.config["total_steps"] = steps  # different for seeds, and the same for arms
    assert settings_table(runs) is None
    runs[2].config["total_steps"] = 30
    for run in runs[:2]:
        run.config["seer"] = {"enabled": False}
        run.config["replay"] = {"latent_dtype": "float16"}
    table = settings_table(runs)
    assert table is not None
    assert table.head == ["field", "A", "B"]
    assert table.rows == [
        ["replay.latent_dtype", "float16", ""],
        ["seer.enabled", "false", "true"],
        ["total_steps", "10, 20", "30, 20"],
    ]


def test_legend_of_a_figure_has_the_arms_of_all_tasks(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Figure, "legend", lambda figure, handles, labels, **style: shown.extend(labels))
    curves = learning_curves([make_records("A", {1: 1.0}), make_records("B", {1: 1.0}, task="qbert")])
    figures.draw(tmp_path / "x.png", curves, [], "env_steps")
    assert shown == ["A", "B"]


def test_image_of_a_section_is_written_with_its_description(tmp_path):
    png = io.BytesIO()
    Image.fromarray(np.zeros((4, 9, 3), np.uint8)).save(png, format="png")
    page.write(
        tmp_path / "page.html",
        [make_records("A", {100: 1.0})],
        title="Title",
        command="python -m experiments.report a",
        sections=[Section("A section", "Text.", [("caption", png.getvalue())])],
    )
    with Image.open(tmp_path / "page-a-section-1.png") as image:
        assert (image.info["Title"], image.info["Description"]) == ("A section, caption", "Text.")
