"""The page of a report, its figures, its command, and the page in a browser."""

import io
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.report import __main__ as command
from experiments.report import figures, page
from experiments.report.content import Section
from experiments.report.curves import AXES, learning_curves
from tests.helpers.record_factories import make_line, make_records, write_run_dir

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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


def test_seventeen_arms_have_sixteen_distinct_styles():
    curves = learning_curves([make_records(str(i), {100: 1.0}) for i in range(17)])
    styles = figures.styles(curves)
    assert len(set(styles.values())) == 16
    assert styles["16"] == styles["0"]


def test_legend_of_a_figure_has_the_arms_of_all_tasks(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Figure, "legend", lambda figure, handles, labels, **style: shown.extend(labels))
    curves = learning_curves([make_records("A", {1: 1.0}), make_records("B", {1: 1.0}, task="qbert")])
    figures.draw(tmp_path / "x.png", curves, [], "env_steps")
    assert shown == ["A", "B"]


@pytest.fixture(scope="module")
def written_page(tmp_path_factory):
    """A page with two tasks, a freeze, an image and a video."""
    directory = tmp_path_factory.mktemp("page")
    (directory / "video.mp4").write_bytes(b"12")
    png = io.BytesIO()
    Image.fromarray(np.zeros((4, 900, 3), np.uint8)).save(png, format="png")
    page.write(
        directory / "page.html",
        [
            make_records("Rainbow", {100: 1.0, 200: 2.0}),
            make_records("Rainbow + SEER", {100: 1.0, 220: 3.0}, freeze=150),
            make_records("Rainbow", {100: 1.0, 200: 2.0}, task="qbert"),
        ],
        title="Title",
        command="python -m experiments.report a b",
        sections=[Section("A section", "Text.", [("caption", png.getvalue())])],
        videos=[directory / "video.mp4"],
    )
    return directory / "page.html"


def test_image_of_a_section_is_written_with_its_description(written_page):
    with Image.open(written_page.with_name("page-a-section-1.png")) as image:
        assert (image.info["Title"], image.info["Description"]) == ("A section, caption", "Text.")


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
def test_page_in_a_browser_needs_no_network_and_fits_the_window(browser, written_page, width):
    tab = browser.new_page(viewport={"width": width, "height": 900})
    errors, requests = [], []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(written_page.as_uri())
    tab.wait_for_selector("#plot0 .scatterlayer .trace", state="attached")
    ticks = set()
    for field in AXES:
        tab.select_option("#axis", field)
        ticks.add(tab.locator("#plot0 .xaxislayer-above").text_content())
    assert len(ticks) == len(AXES)
    tab.locator("#published summary").click()
    traces = tab.locator("#plot0 .scatterlayer .trace")
    before = traces.count()
    tab.locator("#references input").first.click()
    assert traces.count() != before
    for summary in tab.locator("details summary").all()[1:]:
        summary.click()
    overflowing = tab.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.scroll, pre')).map((e) => e.tagName + '.' + e.className)"
    )
    assert overflowing == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    assert [url for url in requests if not url.startswith("data:")] == [written_page.as_uri()]
    tab.close()
