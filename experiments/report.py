"""Turns records of runs into a page, a picture and tables.

python -m experiments.report RUN_DIRS... [--out=report.html] [--title=TEXT] [--x=macs_total] [--budget=15e12]

RUN_DIRS are directories of runs, finished or not, or files of records as in experiments/results/. Beside report.html,
a page that needs no network, come report.png and report.csv with the curves and report.md with the tables.
"""

import base64
import csv
import dataclasses
import io
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jinja2
import plotly.offline
from absl import flags
from flax import traverse_util
from matplotlib.ticker import EngFormatter
from PIL import Image, PngImagePlugin

from experiments import curves, figures, records, references, tables
from experiments.records import Records
from experiments.spec import Comparison, Section
from seer_jax import cli

_HERE = pathlib.Path(__file__).parent
# Fields in which runs of one arm may differ.
_NO_ARM = ("seed", "total_steps", "log_every", "eval_every", "checkpoint_every", "params_every")
_LARGEST_VIDEO_BYTES = 1_000_000


def write(
    path: pathlib.Path,
    runs: Sequence[Records],
    *,
    title: str,
    command: str,
    x: str = "macs_total",
    comparisons: Sequence[Comparison] = (Comparison(),),
    sections: Sequence[Section] = (),
    videos: Sequence[pathlib.Path] = (),
    note: str = "",
) -> None:
    """Writes a page and, beside it, its curves as PNG and CSV, its tables as Markdown and its sections' pictures.

    The pictures' PNG text chunks `Title` and `Description` say what they show.

    Args:
      path: of the page.
      runs: at least one of which was evaluated.
      title: of the page.
      command: that made the runs.
      x: field of `curves.AXES` to begin with.
      comparisons: tables of scores.
      sections: of the experiment's own.
      videos: MP4 files; those of over 1 MB are left out, so that the page stays below 8.
      note: what a reader must know first.

    Raises:
      RecordsError: nothing was evaluated.
    """
    lines = curves.curves(runs)
    if not lines:
        raise records.RecordsError("none of the runs was ever evaluated; train longer, or set eval_every lower")
    published = references.read({line.task for line in lines})
    told = [table for comparison in comparisons for table in tables.scores(lines, comparison)]
    costs = [tables.costs(found)] if (found := curves.costs(runs)) else []
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    html = page.from_string((_HERE / "report.html.jinja").read_text()).render(
        title=title,
        note=note,
        command=command,
        plotly=plotly.offline.get_plotlyjs(),
        axes=curves.AXES,
        first_axis=x,
        panels=json.dumps(figures.panels(lines, published)).replace("</", "<\\/"),
        tasks=list(dict.fromkeys(line.task for line in lines)),
        score_tables=told,
        cost_tables=costs,
        sections=[
            (s.title, s.text, [(caption, _data(png, "image/png")) for caption, png in s.images]) for s in sections
        ],
        videos=[(str(v), _data(v.read_bytes(), "video/mp4")) for v in videos if _is_small(v)],
        runs=runs,
        commands=_commands(runs),
        differing=_differing_fields(runs),
        versions=_versions(runs),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html)
    figures.draw(path.with_suffix(".png"), lines, published, x)
    _write_csv(path.with_suffix(".csv"), lines)
    _write_pictures(path, sections)
    texts = [f"{table.title}\n\n{table.to_markdown()}\n{table.note}\n" for table in [*told, *costs]]
    texts += [f"{section.title}\n\n{section.text}\n" for section in sections]
    path.with_suffix(".md").write_text("\n".join(texts))


def _write_pictures(path: pathlib.Path, sections: Sequence[Section]) -> None:
    for section in sections:
        for i, (caption, png) in enumerate(section.images, start=1):
            about = PngImagePlugin.PngInfo()
            about.add_itxt("Title", f"{section.title}, {caption}")
            about.add_itxt("Description", section.text)
            picture = path.with_name(f"{path.stem}-{_slug(section.title)}-{i}.png")
            Image.open(io.BytesIO(png)).save(picture, pnginfo=about, optimize=True)


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _is_small(video: pathlib.Path) -> bool:
    return video.stat().st_size <= _LARGEST_VIDEO_BYTES


def _write_csv(path: pathlib.Path, lines: Sequence[curves.Curve]) -> None:
    with path.open("w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["task", "arm", "seed", *curves.AXES, "eval_return_mean"])
        for line in lines:
            for s, (seed, returns) in enumerate(zip(line.seeds, line.scores, strict=True)):
                for i, value in enumerate(returns):
                    writer.writerow([line.task, line.arm, seed, *(line.x[field][s][i] for field in curves.AXES), value])


def _differing_fields(runs: Sequence[Records]) -> list[tuple[str, list[Any]]]:
    """Returns each field of the configurations in which runs differ, with each run's value."""
    flat = [traverse_util.flatten_dict(run.config, sep=".") for run in runs]
    names = dict.fromkeys(name for fields in flat for name in fields)
    values = {name: [fields.get(name) for fields in flat] for name in names}
    return [(name, row) for name, row in values.items() if any(value != row[0] for value in row)]


def _commands(runs: Sequence[Records]) -> list[str]:
    """Returns the command that trained each run, of those that a command trained."""
    arguments = [run.manifest["arguments"] for run in runs if run.manifest.get("arguments")]
    return [shlex.join(["python", "-m", "seer_jax.train", *each]) for each in arguments]


def _versions(runs: Sequence[Records]) -> dict[str, str]:
    """Returns versions by package; all that there are, if runs were made with different ones."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for name, version in (run.manifest["packages"] | {"commit": run.manifest["git_commit"] or "unknown"}).items():
            found.setdefault(name, []).append(version)
    return {name: ", ".join(sorted(set(versions))) for name, versions in found.items()}


def main(argv: list[str]) -> int:
    values = cli.make_flags()
    flags.DEFINE_string("out", "report.html", "The page to write.", flag_values=values)
    flags.DEFINE_string("title", "Training runs", "Of the page.", flag_values=values)
    flags.DEFINE_enum("x", "macs_total", list(curves.AXES), "What curves are drawn over at first.", flag_values=values)
    flags.DEFINE_float("budget", None, "Value of x to compare scores at, not at the end.", 0.0, flag_values=values)
    return cli.main(argv, __doc__, values, _report, (records.RecordsError,), takes_operands=True)


def _report(values: flags.FlagValues, *paths: str) -> None:
    if not paths:
        raise cli.UsageError("RUN_DIRS are missing: directories of runs, or files of their records")
    runs = _told_apart([records.read(pathlib.Path(path)) for path in paths])
    videos = [video for path in paths for video in sorted((pathlib.Path(path) / "videos").glob("*.mp4"))]
    out = pathlib.Path(values.out)
    command = "python -m experiments.report " + " ".join(paths)
    comparison = Comparison(x=values.x)
    if values.budget is not None:
        title = f"Scores at {EngFormatter(sep='')(values.budget)} {curves.AXES[values.x]}"
        comparison = Comparison(title, x=values.x, budget=values.budget)
    write(out, runs, title=values.title, command=command, x=values.x, comparisons=[comparison], videos=videos)
    print(f"report: {out}, with .png, .csv and .md beside it")


def _told_apart(runs: Sequence[Records]) -> list[Records]:
    """Returns the runs with what differs between runs of an arm, but for seeds and lengths, added to their arms."""
    told = []
    for run in runs:
        alike = [other for other in runs if (other.task, other.arm) == (run.task, run.arm)]
        position = next(i for i, other in enumerate(alike) if other is run)
        fields = [(name, row[position]) for name, row in _differing_fields(alike) if name not in _NO_ARM]
        told.append(dataclasses.replace(run, arm=", ".join([run.arm, *(f"{name}={value}" for name, value in fields)])))
    return told


if __name__ == "__main__":
    sys.exit(main(sys.argv))
