"""Writes `results.md`, `figures/` and the README's tables of scores from the records in `experiments/results/runs/`.

python -m docs.results
"""

import pathlib
import re
from collections.abc import Iterator

from PIL import Image

from experiments import curves, figures, records, references, tables
from experiments.records import Records
from experiments.run import EXPERIMENTS

_ROOT = pathlib.Path(__file__).parents[1]
PAGE, README = pathlib.Path(__file__).with_suffix(".md"), _ROOT / "README.md"
_PICTURES = pathlib.Path(__file__).parent / "figures"
_RECORDS = _ROOT / "experiments" / "results" / "runs"
_MARKED = re.compile(r"(<!-- scores of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SHOWN = ("table1", "fig2", "fig3", "fig4", "fig7", "fig8", "freeze_time", "latent_dtype")
_HEAD = """# Results

Written by `python -m docs.results` from `experiments/results/runs/`: what came out of experiments at the scale `cpu`,
on 2 cores. Lines are means over seeds, bands one standard deviation, and dotted lines mark the freeze. Pictures other
than curves are those that `experiments.run` puts beside its page, copied to `figures/`.
"""


def text() -> str:
    """Returns the page."""
    others = ", ".join(f"`{name}`" for name in EXPERIMENTS if name not in _SHOWN)
    parts = [_HEAD, *(part for name in _SHOWN for part in _section(name))]
    return "\n".join([*parts, f"## Not run at this scale\n\n{others}.\n"])


def with_scores(readme: str) -> str:
    """Returns the README with today's tables where it marks them."""
    return _MARKED.sub(lambda match: f"{match[1]}{_scores(match[2])}{match[3]}", readme)


def _scores(name: str) -> str:
    return "".join(f"{table.title}:\n\n{table.to_markdown()}\n" for table in _score_tables(name))


def _score_tables(name: str) -> list[tables.Table]:
    lines = curves.curves(_runs(name))
    return [table for comparison in EXPERIMENTS[name].comparisons("cpu") for table in tables.scores(lines, comparison)]


def _section(name: str) -> Iterator[str]:
    experiment, runs = EXPERIMENTS[name], _runs(name)
    yield f"## {experiment.title}\n"
    yield f"`python -m experiments.run {name} --scale=cpu`\n"
    yield from (f"{note}\n" for note in (experiment.note, _missing(name), _rewritten(runs)) if note)
    yield f"![{experiment.title}](figures/{name}.png)\n"
    told = None
    for picture in sorted(_PICTURES.glob(f"{name}-*.png")):
        with Image.open(picture) as image:
            title, description = image.text["Title"], image.text["Description"]
        if title != told:
            yield f"{title}. {description}\n"
        told = title
        yield f"![{title}](figures/{picture.name})\n"
    for table in (*_score_tables(name), tables.costs(curves.costs(runs))):
        yield f"{table.title}:\n\n{table.to_markdown()}\n{table.note}\n"


def _missing(name: str) -> str:
    wanted = [run.name for run in EXPERIMENTS[name].runs("cpu")]
    missing = [run for run in wanted if not (_RECORDS / f"{run}.jsonl").exists()]
    return f"{len(missing)} of its {len(wanted)} runs were not made: {', '.join(missing)}." if missing else ""


def _rewritten(runs: list[Records]) -> str:
    names = [run.name for run in runs if run.manifest["git_commit"] is None]
    told = "Made by earlier versions of this code, whose records were brought into today's form and lack its commit"
    return (
        f"{told} (multiply-accumulates are computed where they were not logged): {', '.join(names)}." if names else ""
    )


def _runs(name: str) -> list[Records]:
    """Returns what is kept of an experiment's runs, in its order and with its names of arms."""
    files = ((_RECORDS / f"{run.name}.jsonl", run.arm) for run in EXPERIMENTS[name].runs("cpu"))
    return [records.read(path, arm) for path, arm in files if path.exists()]


def main() -> None:
    PAGE.write_text(text())
    README.write_text(with_scores(README.read_text()))
    for name in _SHOWN:
        lines = curves.curves(_runs(name))
        published = references.read({line.task for line in lines})
        figures.draw(_PICTURES / f"{name}.png", lines, published, EXPERIMENTS[name].x)


if __name__ == "__main__":
    main()
