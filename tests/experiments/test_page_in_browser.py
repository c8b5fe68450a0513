"""The page of a report in a browser: its controls, its widths, and without network or JavaScript."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments.report import page
from experiments.report.content import Section
from experiments.report.curves import AXES
from tests.helpers.record_factories import make_fork, make_records

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCORES = np.array([[1.0, 4.0, 2.0, 8.0, 5.0, 7.0], [3.0, 3.0, 9.0, 1.0, 6.0, 2.0]])  # [seeds, evaluations]
STEPS = np.arange(1, 7) * 100


@pytest.fixture(scope="module")
def written_page(tmp_path_factory):
    """A page with two tasks, two seeds, a freeze, many arms, forks on the second task, an image and a video."""
    directory = tmp_path_factory.mktemp("page")
    (directory / "video.mp4").write_bytes(b"12")
    png = io.BytesIO()
    Image.fromarray(np.zeros((4, 900, 3), np.uint8)).save(png, format="png")
    runs = [
        make_records("Rainbow", dict(zip(STEPS.tolist(), scores.tolist(), strict=True)), task=task, seed=seed)
        for task in ("krull", "qbert")
        for seed, scores in enumerate(SCORES)
    ]
    runs += [
        make_records("Rainbow + SEER", {100: 1.0, 220: 3.0}, freeze=150),
        make_records("cut short", {100: 1.0, 200: None, 300: 2.0}),
        *(make_records(f"Rainbow + SEER, seer.freeze_step={i}", {100: 12345.6}) for i in range(9)),
    ]
    runs += [make_fork(run, 300, "forked", {400: 5.0, 500: 6.0}) for run in runs[2:4]]
    for run in runs[:4]:
        run.config["seer"] = {"enabled": False}
    page.write(
        directory / "page.html",
        runs,
        title="Title",
        command="python -m experiments.report a b",
        sections=[Section("A section", "Text.", [("caption", png.getvalue())])],
        videos=[directory / "video.mp4"],
    )
    return directory / "page.html"


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


@pytest.fixture(scope="module")
def open_tab(browser, written_page):
    """A tab with the page, and what it wrote to its console or requested."""
    tab = browser.new_page(viewport={"width": 1400, "height": 900})
    errors, requests = [], []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(written_page.as_uri())
    tab.wait_for_selector("#plot0 .scatterlayer .trace", state="attached")
    yield tab, errors, requests
    tab.close()


@pytest.fixture
def tab(open_tab):
    """The tab, with its controls as they are at first."""
    tab, _, _ = open_tab
    yield tab
    tab.get_by_role("button", name="Show all").click()
    for box in tab.locator("#published input:checked").all():
        box.uncheck()
    for name, value in (("axis", "macs_total"), ("shown", "mean"), ("smoothing", "1")):
        tab.select_option(f"#{name}", value)


def lines(tab, panel: int = 0) -> dict[str, np.ndarray]:
    """Returns the points of the named lines of a panel, `[2, P]`, by name; NaN where a line has a gap."""
    found = tab.evaluate(
        "(id) => document.getElementById(id).data.filter((t) => t.name).map((t) => [t.name, [...t.x], [...t.y]])",
        f"plot{panel}",
    )
    return {name: np.array([x, y], float) for name, x, y in found}


def legend_button(tab, name: str):
    return tab.locator("#legend").get_by_role("button", name=name, exact=True)


def overflowing(tab) -> list[str]:
    """Returns the elements that end to the right of the window, apart from those that scroll by themselves."""
    return tab.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.scroll, pre, .static')).map((e) => e.tagName + '.' + e.className)"
    )


def test_legend_toggles_an_arm_in_all_panels_with_mouse_and_keyboard(tab):
    button = legend_button(tab, "Rainbow")
    assert button.get_attribute("aria-pressed") == "true"
    assert all("Rainbow" in lines(tab, panel) for panel in (0, 1))
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not any("Rainbow" in lines(tab, panel) for panel in (0, 1))
    assert "Rainbow + SEER" in lines(tab)
    button.press("Enter")
    assert all("Rainbow" in lines(tab, panel) for panel in (0, 1))
    button.press("Space")
    assert not any("Rainbow" in lines(tab, panel) for panel in (0, 1))


def test_freeze_of_a_hidden_arm_is_not_marked(tab):
    assert tab.evaluate("plot0.layout.shapes.map((shape) => shape.x0)") == [150e6]
    legend_button(tab, "Rainbow + SEER").click()
    assert tab.evaluate("plot0.layout.shapes.length") == 0


def test_random_play_is_in_the_legend_and_can_be_hidden(tab):
    np.testing.assert_array_equal(lines(tab)["random play"], [[100e6, 600e6], [1598.0, 1598.0]])
    legend_button(tab, "random play").click()
    assert not any("random play" in lines(tab, panel) for panel in (0, 1))


def test_all_lines_are_hidden_and_shown_at_once(tab):
    tab.get_by_role("button", name="Hide all").click()
    assert lines(tab) == {}
    tab.get_by_role("button", name="Show all").click()
    assert len(lines(tab)) == 13  # 12 arms and random play


def test_single_seeds_are_shown_beside_the_mean_or_instead_of_it(tab):
    seeds = {"Rainbow, seed 0", "Rainbow, seed 1"}
    assert not seeds & lines(tab).keys()
    fills = "plot0.data.filter((trace) => trace.fill).length"
    assert tab.evaluate(fills) == 12
    tab.select_option("#shown", "both")
    assert {"Rainbow", *seeds} <= lines(tab).keys()
    assert tab.evaluate(fills) == 12
    tab.select_option("#shown", "seeds")
    shown = lines(tab)
    assert seeds <= shown.keys()
    assert "Rainbow" not in shown
    assert tab.evaluate(fills) == 0
    for seed, scores in enumerate(SCORES):
        np.testing.assert_array_equal(shown[f"Rainbow, seed {seed}"], [STEPS * 1e6, scores])


def smoothed(scores: np.ndarray, window: int) -> np.ndarray:
    """Returns each value's mean with its neighbours, as many on each side as there are on both, `[seeds, P]`."""
    sides = [min(window // 2, i, scores.shape[1] - 1 - i) for i in range(scores.shape[1])]
    return np.stack([scores[:, i - side : i + side + 1].mean(axis=1) for i, side in enumerate(sides)], axis=1)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_smoothing_is_that_of_each_seed_before_mean_and_band(tab, window):
    tab.select_option("#smoothing", str(window))
    expected = smoothed(SCORES, window)
    np.testing.assert_allclose(lines(tab)["Rainbow"], [STEPS * 1e6, expected.mean(axis=0)])
    low, high = np.array(tab.evaluate("plot0.data.slice(0, 2).map((trace) => [...trace.y])"))
    np.testing.assert_allclose([low, high], expected.mean(axis=0) + [[-1], [1]] * expected.std(axis=0, ddof=1))
    tab.select_option("#shown", "seeds")
    np.testing.assert_allclose(lines(tab)["Rainbow, seed 1"][1], expected[1])


def test_score_that_is_not_available_leaves_a_gap(tab):
    np.testing.assert_array_equal(lines(tab)["cut short"][1], [1.0, np.nan, 2.0])


def test_curve_of_forks_begins_at_the_fork_unless_the_trunk_is_hidden(tab):
    steps, shared = np.arange(3, 6) * 100e6, SCORES.mean(axis=0)
    np.testing.assert_array_equal(lines(tab, 1)["forked"], [steps, [shared[2], 5.0, 6.0]])
    tab.select_option("#shown", "seeds")
    np.testing.assert_array_equal(lines(tab, 1)["forked, seed 1"], [steps, [SCORES[1, 2], 5.0, 6.0]])
    tab.select_option("#shown", "mean")
    legend_button(tab, "Rainbow").click()
    np.testing.assert_array_equal(lines(tab, 1)["forked"][1], [*shared[:3], 5.0, 6.0])


def test_axis_and_published_scores_are_chosen_with_controls(tab):
    ticks = set()
    for field in AXES:
        tab.select_option("#axis", field)
        ticks.add(tab.locator("#plot0 .xaxislayer-above").text_content())
    assert len(ticks) == len(AXES)
    before = len(lines(tab))
    tab.locator("#published summary").click()
    tab.locator("#published input").first.check()
    assert len(lines(tab)) == before + 1
    tab.locator("#published input").first.uncheck()
    assert len(lines(tab)) == before


def test_controls_and_wide_tables_are_reached_with_the_tab_key(tab):
    tab.locator("#axis").focus()
    reached = []
    for _ in range(60):
        reached.append(tab.evaluate("[document.activeElement.id, document.activeElement.ariaLabel].find(Boolean)"))
        tab.keyboard.press("Tab")
    assert reached[:3] == ["axis", "shown", "smoothing"]
    assert {"Scores at the end", "Costs", "Settings that differ"} <= set(reached)


def test_page_fits_windows_of_any_width_and_its_wide_tables_scroll(tab):
    tab.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    for width in (1400, 500, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_function("document.querySelector('#plot0 .main-svg').clientWidth < innerWidth")
        assert overflowing(tab) == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        wide = "document.querySelector('[aria-label=\"Scores at the end\"]')"
        assert tab.evaluate(f"{wide}.scrollWidth > {wide}.clientWidth")
    tab.set_viewport_size({"width": 1400, "height": 900})


def test_page_needs_no_network_and_has_no_errors(open_tab, written_page):
    _, errors, requests = open_tab
    assert errors == []
    assert [url for url in requests if not url.startswith("data:")] == [written_page.as_uri()]


@pytest.mark.parametrize("width", [1400, 500])
def test_page_without_javascript_shows_figure_and_tables_and_no_controls(browser, written_page, width):
    context = browser.new_context(java_script_enabled=False, viewport={"width": width, "height": 900})
    tab = context.new_page()
    tab.goto(written_page.as_uri())
    assert tab.locator(".static img").bounding_box()["width"] > 800
    assert all(table.is_visible() for table in tab.locator("main > .scroll").all())
    assert tab.get_by_role("cell", name="seer.enabled").is_visible()
    assert tab.get_by_text("Lines are mean evaluation returns").is_visible()
    controls = tab.locator("select, button, input, .plot").all()
    assert controls
    assert not any(each.is_visible() for each in controls)
    context.close()
