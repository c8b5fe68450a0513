"""Every figure and table of the paper at its smallest scale, and the page that tells of it in a real browser."""

import re
import shutil

import pytest

from experiments import encoder_analysis, pool, records, report, run
from seer_jax import envs, train
from tests.helpers.runs import tiny_config

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NEEDS_EGL = ("fig2", "fig5", "fig6", "fig7", "fig8", "fig9", "freeze_time", "latent_dtype")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Shared by all figures, as its users share it: no run is made twice."""
    return tmp_path_factory.mktemp("experiments")


@pytest.fixture(scope="module")
def fig3(out):
    """Figure 3, whose runs are processes as everybody's are; returns its page."""
    assert run.main(["run", "fig3", "--scale=smoke", f"--out={out}"]) == 0
    return out / "fig3.html"


def train_here(runs, out, workers):
    """Takes the place of processes, each of which would import and compile anew."""
    for each in runs:
        train.run(each.load(out / "runs"), out / "runs" / each.name, resume=True)
    return {each.name: pool.Outcome(0) for each in runs}


@pytest.mark.parametrize("name", sorted(run.EXPERIMENTS))
def test_every_experiment_runs_at_its_smallest_scale(name, fig3, out, monkeypatch, capsys):
    if name in NEEDS_EGL and not envs.HAS_EGL:
        pytest.skip("this machine has no EGL to render with")
    monkeypatch.setattr(pool, "_train_locally", train_here)
    assert run.main(["run", name, "--scale=smoke", f"--out={out}"]) == 0, capsys.readouterr().err
    wanted = run.EXPERIMENTS[name].runs("smoke")
    kept = [records.read(out / "records" / name / f"{each.name}.jsonl") for each in wanted]
    assert all(each.finished for each in kept)
    assert [each.arm for each in kept] == [each.arm for each in wanted]
    page = (out / f"{name}.html").read_text()
    assert all(f"<td>{each.name}</td>" in page for each in wanted)
    assert len(page) < 8e6
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert bool(list(out.glob(f"{name}-*.png"))) == (name == "fig8")
    assert (out / f"{name}.csv").read_text().count("\n") == 1 + sum(len(each.of_kind("eval")) for each in kept)


def test_what_is_done_is_told_again_without_training(fig3, out, monkeypatch):
    monkeypatch.setattr(pool, "_train_locally", pytest.fail)
    fig3.unlink()
    assert run.main(["run", "fig3", "--scale=smoke", f"--out={out}"]) == 0
    assert fig3.exists()


def test_a_directory_with_runs_of_another_scale_is_refused(fig3, out, capsys):
    assert run.main(["run", "fig3", "--scale=cpu", f"--out={out}"]) == 2
    assert "holds a run of another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "NAME= is no experiment"),
        (["fig1", "--scale=smoke"], "choose one of table1, fig2"),
        (["fig3", "fig4", "--scale=smoke"], "NAME=fig3 fig4 is no experiment"),
        (["fig3"], "--scale=None is missing or unknown"),
        (["fig3", "--scale=huge"], "choose from smoke, cpu, paper"),
        (["fig3", "--scale=smoke", "--backend=slurm"], "backend"),
    ],
)
def test_bad_commands(arguments, message, capsys):
    assert run.main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_layers_that_do_not_change_are_similar_and_those_that_do_less(fake_envs, tmp_path):
    """A run that freezes its encoder half way: from then on its similarity is exactly one."""
    train.run(tiny_config(params_every=100, num_envs=1), tmp_path / "run")
    copies = encoder_analysis.kept_params(tmp_path / "run")
    assert list(copies) == [0, 100, 200, 300, 400]
    watched = encoder_analysis.watch(tmp_path / "run", copies[400], 300)
    assert len(watched.views) == len(watched.actions) == 300
    sections = encoder_analysis.analyse(tmp_path / "run", observations=300)
    assert [len(section.images) for section in sections] == [3, 1]
    floor = float(re.search(r"heads/logits (\d\.\d\d)", sections[1].text)[1])
    assert 0.0 < floor < 1.0
    layers = encoder_analysis.layers_of(tmp_path / "run")
    similarity = encoder_analysis.similarities(copies, layers, watched)
    assert [step for step, _ in similarity["encoder/conv2"]] == [0, 100, 200, 300]
    values = [value for _, value in similarity["encoder/conv2"]]
    assert values[2:] == pytest.approx([1.0, 1.0])
    assert values[1] < 1.0 - 1e-6
    assert similarity["heads/logits"][3][1] < 1.0 - 1e-6


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("this machine has no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        offline = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=offline)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(browser, fig3, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(fig3.as_uri())
    page.wait_for_selector("#plot0 .scatterlayer .trace", state="attached")
    ticks = {}
    for field in ("macs_total", "env_steps", "seconds", "frames", "flops_total", "replay_used"):
        page.select_option("#axis", field)
        ticks[field] = page.locator("#plot0 .xaxislayer-above").text_content()
    assert len(set(ticks.values())) == 6
    page.locator("#published summary").click()
    lines = page.locator("#plot0 .scatterlayer .trace")
    before = lines.count()
    page.locator("#references input").first.click()
    assert lines.count() != before
    for summary in page.locator("details summary").all()[1:]:
        summary.click()
    overflowing = page.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.scroll, pre')).map((e) => e.tagName + '.' + e.className)"
    )
    assert overflowing == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    assert requests == [fig3.as_uri()]
    page.close()


def test_the_command_reads_runs_and_their_records_alike(fig3, out, tmp_path):
    run_dirs = [str(out / "runs" / name) for name in ("krull-rainbow-s0", "krull-seer-s0")]
    kept = [str(out / "records" / "fig3" / f"{name}.jsonl") for name in ("krull-rainbow-s0", "krull-seer-s0")]
    tables = []
    for paths in (run_dirs, kept):
        assert (
            report.main(["report", "--x=env_steps", *paths, "--out", f"{tmp_path / 'page.html'}", "--title=<b>&</b>"])
            == 0
        )
        tables.append((tmp_path / "page.csv").read_text())
    assert tables[0] == tables[1]
    page = (tmp_path / "page.html").read_text()
    assert "<title>&lt;b&gt;&amp;&lt;/b&gt;</title>" in page
    assert page.count("python -m seer_jax.train --config=configs/rainbow_atari.py") == 2
