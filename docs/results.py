"""Writes `results.md`, `figures/` and the tables of other pages from the records in `experiments/results/runs/`.

python -m docs.results
"""

import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image

from experiments.report import figures, records, references, signals, tables
from experiments.report.content import Comparison
from experiments.report.costs import mean_costs, total_cost
from experiments.report.curves import Curve, learning_curves
from experiments.report.records import RunRecords
from experiments.report.tables import Table
from experiments.run import EXPERIMENTS
from seer_jax.agents.registry import AGENTS
from seer_jax.envs.registry import SUITES
from seer_jax.run import resolve

_ROOT = pathlib.Path(__file__).parents[1]
PAGE = pathlib.Path(__file__).with_suffix(".md")
PAGES_WITH_TABLES = (_ROOT / "README.md", PAGE.with_name("freezing.md"))
_FIGURES = pathlib.Path(__file__).parent / "figures"
_RECORDS = _ROOT / "experiments" / "results" / "runs"
_MARKED = re.compile(r"(<!-- (scores|tables) of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SHOWN = ("table1", "fig2", "fig3", "fig4", "fig7", "fig8", "latent_dtype", "freeze_time")
_HEAD = """# Results

Written by `python -m docs.results` from `experiments/results/runs/`: the results of experiments at the scale `cpu`, on
2 cores. Lines are means over seeds, bands one standard deviation, and dotted lines mark the freeze. Figures other than
curves are copies of those that `experiments.run` writes next to its page.
"""


def text() -> str:
    """Returns the text of `results.md`."""
    not_run = ", ".join(f"`{name}`" for name in EXPERIMENTS if name not in _SHOWN)
    parts = [_HEAD, *(part for name in _SHOWN for part in _section(name))]
    return "\n".join([*parts, f"## Not run at this scale\n\n{not_run}.\n"])


def with_tables(page: str) -> str:
    """Returns the text of a page with current tables between its marks."""
    return _MARKED.sub(lambda match: f"{match[1]}{_FORMATS[match[2]](match[3])}{match[4]}", page)


def _format_scores(name: str) -> str:
    shown = _compare(name, tables.score_tables)
    return "".join(f"{table.title}:\n\n{table.to_markdown()}\n" for table in shown)


def _format_tables(name: str) -> str:
    shown = EXPERIMENTS[name].tables("cpu", _read_runs(name))
    return "".join(f"{table.title}:\n\n{table.to_markdown()}\n{table.note}\n\n" for table in shown)


_FORMATS = {"scores": _format_scores, "tables": _format_tables}


def _compare(name: str, make_tables: Callable[[Sequence[Curve], Comparison], list[Table]]) -> list[Table]:
    curves, comparisons = learning_curves(_read_runs(name)), EXPERIMENTS[name].comparisons("cpu")
    return [table for comparison in comparisons for table in make_tables(curves, comparison)]


def _section(name: str) -> Iterator[str]:
    experiment, runs = EXPERIMENTS[name], _read_runs(name)
    yield f"## {experiment.title}\n"
    yield f"`python -m experiments.run {name} --scale=cpu`\n"
    notes = (experiment.note, _missing_runs(name), _converted_runs(runs), *_earlier_defaults(runs))
    yield from (f"{note}\n" for note in notes if note)
    yield f"![{experiment.title}](figures/{name}.png)\n"
    yield from _section_images(name)
    compared, costs = _compare(name, tables.comparison_tables), tables.cost_tables(mean_costs(runs), total_cost(runs))
    for table in (*compared, *experiment.tables("cpu", runs), *costs, *signals.tables(runs)):
        yield f"{table.title}:\n\n{table.to_markdown()}\n{table.note}\n"


def _section_images(name: str) -> Iterator[str]:
    """Yields the images of an experiment besides its curves, each title and description once."""
    previous_title = None
    for path in sorted(_FIGURES.glob(f"{name}-*.png")):
        with Image.open(path) as image:
            title, description = image.info["Title"], image.info["Description"]
        if title != previous_title:
            yield f"{title}. {description}\n"
        previous_title = title
        yield f"![{title}](figures/{path.name})\n"


def _missing_runs(name: str) -> str:
    names = [run.name for run in EXPERIMENTS[name].runs("cpu")]
    missing = [run for run in names if not (_RECORDS / f"{run}.jsonl").exists()]
    return f"{len(missing)} of its {len(names)} runs were not trained: {', '.join(missing)}." if missing else ""


def _converted_runs(runs: list[RunRecords]) -> str:
    names = [run.name for run in runs if run.manifest["git_commit"] is None]
    if not names:
        return ""
    return (
        "Trained by earlier versions of this code, whose records were converted to the current format and lack the"
        " commit (multiply-accumulates are computed where they were not logged): " + ", ".join(names) + "."
    )


def _earlier_defaults(runs: list[RunRecords]) -> list[str]:
    """Returns a sentence about each group of runs that were trained with the same defaults of earlier versions."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(", ".join(_values_of_earlier_defaults(run.config)), []).append(run.name)
    return [
        f"Trained with the defaults of earlier versions, {values}"
        + (f": {', '.join(names)}." if len(groups) > 1 else ".")
        for values, names in groups.items()
        if values
    ]


def _values_of_earlier_defaults(config: dict[str, Any]) -> list[str]:
    """Returns each field, with its value, that has the value of versions without it, and today another default."""
    env, suite, algorithm = config["env"], SUITES[config["env"]["suite"]], AGENTS[config["agent"]["name"]]
    today = resolve.default_config(suite=env["suite"], agent=config["agent"]["name"]).to_dict()
    today["env"] = suite.fill_unset(today["env"] | {"task": env["task"], "protocol": env["protocol"]})
    here, defaults = resolve.flat(config), resolve.flat(today)
    earlier = resolve.earlier_values(suite, algorithm)
    return [f"`{name}={value}`" for name, value in earlier.items() if here[name] == value != defaults[name]]


def _read_runs(name: str) -> list[RunRecords]:
    """Returns the kept records of an experiment's runs, in its order and with its labels of arms."""
    files = ((_RECORDS / f"{run.name}.jsonl", run.arm) for run in EXPERIMENTS[name].runs("cpu"))
    return [records.read(path, arm) for path, arm in files if path.exists()]


def main() -> None:
    """Writes all files."""
    PAGE.write_text(text())
    for page in PAGES_WITH_TABLES:
        page.write_text(with_tables(page.read_text()))
    for name in _SHOWN:
        curves = learning_curves(_read_runs(name))
        published = references.read({curve.task for curve in curves})
        figures.draw(_FIGURES / f"{name}.png", curves, published, EXPERIMENTS[name].x)


if __name__ == "__main__":
    main()
