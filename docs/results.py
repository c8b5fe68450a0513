"""Writes `results.md`, `figures/` and the README's tables of scores from the records in `experiments/results/`.

python -m docs.results
"""

import pathlib
import re
from collections.abc import Iterator

from PIL import Image

from experiments import curves, figures, records, references, tables
from experiments.run import EXPERIMENTS

_ROOT = pathlib.Path(__file__).parents[1]
PAGE, README = pathlib.Path(__file__).with_suffix(".md"), _ROOT / "README.md"
_PICTURES = pathlib.Path(__file__).parent / "figures"
_RECORDS = _ROOT / "experiments" / "results"
_MARKED = re.compile(r"(<!-- scores of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = """# Results

Written by `python -m docs.results` from `experiments/results/`: what came out of experiments at the scale `cpu`, on 2
cores. Lines are means over seeds, bands one standard deviation, and dotted lines mark the freeze. Pictures other than
curves are those that `experiments.run` puts beside its page, copied to `figures/`.
"""


def text() -> str:
    """Returns the page."""
    return "\n".join([_HEAD, *(part for name in _names() for part in _section(name))])


def with_scores(readme: str) -> str:
    """Returns the README with today's tables where it marks them."""
    return _MARKED.sub(lambda match: f"{match[1]}{_scores(match[2])}{match[3]}", readme)


def _scores(name: str) -> str:
    return "".join(f"{table.title}:\n\n{table.to_markdown()}\n" for table in _score_tables(name))


def _score_tables(name: str) -> list[tables.Table]:
    lines = curves.curves(_runs(name))
    return [table for comparison in EXPERIMENTS[name].comparisons("cpu") for table in tables.scores(lines, comparison)]


def _section(name: str) -> Iterator[str]:
    yield f"## {EXPERIMENTS[name].title}\n"
    yield f"`python -m experiments.run {name} --scale=cpu`\n\n![{EXPERIMENTS[name].title}](figures/{name}.png)\n"
    told = None
    for picture in sorted(_PICTURES.glob(f"{name}-*.png")):
        with Image.open(picture) as image:
            title, description = image.text["Title"], image.text["Description"]
        if title != told:
            yield f"{title}. {description}\n"
        told = title
        yield f"![{title}](figures/{picture.name})\n"
    for table in (*_score_tables(name), tables.costs(curves.costs(_runs(name)))):
        yield f"{table.title}:\n\n{table.to_markdown()}\n{table.note}\n"


def _names() -> list[str]:
    return [name for name in EXPERIMENTS if (_RECORDS / name).is_dir()]


def _runs(name: str) -> list[records.Records]:
    return [records.read(path) for path in sorted((_RECORDS / name).glob("*.jsonl"))]


def main() -> None:
    PAGE.write_text(text())
    README.write_text(with_scores(README.read_text()))
    for name in _names():
        lines = curves.curves(_runs(name))
        published = references.read({line.task for line in lines})
        figures.draw(_PICTURES / f"{name}.png", lines, published, EXPERIMENTS[name].x)


if __name__ == "__main__":
    main()
