"""Writes a report: an HTML page that needs no network, and beside it figures, a CSV file and tables as Markdown."""

import base64
import csv
import io
import json
import pathlib
import re
import shlex
from collections.abc import Sequence

import jinja2
import markupsafe
import plotly.offline
from PIL import Image, PngImagePlugin

from experiments.report import figures, records, references, signals, tables
from experiments.report.content import Comparison, Section
from experiments.report.costs import mean_costs, total_cost
from experiments.report.curves import AXES, Curve, learning_curves
from experiments.report.records import RunRecords
from experiments.report.references import Reference
from experiments.report.settings import settings_table
from experiments.report.tables import Table

_TEMPLATE = pathlib.Path(__file__).with_suffix(".html.jinja")
_MAX_VIDEO_BYTES = 1_000_000  # larger ones are left out, so that the page stays below 8 MB


def write(
    path: pathlib.Path,
    runs: Sequence[RunRecords],
    *,
    title: str,
    command: str,
    x: str = "macs_total",
    comparisons: Sequence[Comparison] = (Comparison(),),
    extra_tables: Sequence[Table] = (),
    sections: Sequence[Section] = (),
    videos: Sequence[pathlib.Path] = (),
    note: str = "",
) -> None:
    """Writes the page `path` and, beside it, `.png` and `.csv` of the curves, `.md` of the tables, and section images.

    The PNG text chunks `Title` and `Description` of a section image say what it shows.

    Args:
      path: of the page.
      runs: at least one of them with an evaluation.
      title: of the page.
      command: the command that made the report.
      x: field of `curves.AXES` that curves are drawn over at first.
      extra_tables: shown after the tables of scores.
      comparisons: tables of scores and, where there are pairs of runs, of differences, with a figure.
      sections: shown between the tables of scores and of costs.
      videos: MP4 files; those above 1 MB are left out.
      note: shown below the title.

    Raises:
      RecordsError: no run has an evaluation.
    """
    curves = learning_curves(runs)
    if not curves:
        raise records.RecordsError("none of the runs has an evaluation; train longer, or set eval_every lower")
    published = references.read({curve.task for curve in curves})
    score_tables = [table for comparison in comparisons for table in tables.comparison_tables(curves, comparison)]
    score_tables += extra_tables
    costs = tables.cost_tables(mean_costs(runs), total_cost(runs))
    other_tables = [*costs, *signals.tables(runs)]
    if settings := settings_table(runs):
        other_tables.append(settings)
    own = [figures.difference_section(curves, comparison) for comparison in comparisons]
    own.append(signals.section(runs, figures.arm_styles(curves)))
    sections = [*(section for section in own if section), *sections]
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.draw(path.with_suffix(".png"), curves, published, x)
    path.write_text(
        _template().render(
            title=title,
            note=note,
            command=command,
            first_axis=x,
            figure=_png_url(path.with_suffix(".png").read_bytes()),
            score_tables=score_tables,
            other_tables=other_tables,
            published=tables.published_table(published),
            sections=[(s.title, s.text, [(caption, _png_url(png)) for caption, png in s.images]) for s in sections],
            videos=[(str(video), _video_url(video)) for video in videos if _is_small(video)],
            **_curve_values(curves, published),
            **_run_values(runs),
        )
    )
    _write_csv(path.with_suffix(".csv"), curves)
    _write_section_images(path, sections)
    path.with_suffix(".md").write_text(_markdown([*score_tables, *other_tables], sections))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["breakable"] = _breakable
    return environment.from_string(_TEMPLATE.read_text())


def _breakable(text: str) -> markupsafe.Markup:
    """Lets a browser break the lines of a dotted name after each part of it."""
    return markupsafe.Markup(re.sub(r"(?<=[a-z])([._])(?=[a-z])", r"\1<wbr>", str(markupsafe.escape(text))))


def _curve_values(curves: Sequence[Curve], published: Sequence[Reference]) -> dict[str, object]:
    """Returns what the template shows of the curves, by name."""
    data = json.dumps({"panels": figures.panels(curves, published), "axes": AXES}, allow_nan=False)
    return {
        "plotly": plotly.offline.get_plotlyjs(),
        "css": _TEMPLATE.with_name("page.css").read_text(),
        "javascript": _TEMPLATE.with_name("page.js").read_text(),
        "axes": AXES,
        "data": data.replace("</", "<\\/"),
        "tasks": list(dict.fromkeys(curve.task for curve in curves)),
        "has_trunks": any(curve.trunk for curve in curves),
    }


def _run_values(runs: Sequence[RunRecords]) -> dict[str, object]:
    """Returns what the template shows of the runs, by name."""
    return {
        "runs": runs,
        "commands": _training_commands(runs),
        "differing": records.differing_fields(runs),
        "versions": _versions(runs),
    }


def _training_commands(runs: Sequence[RunRecords]) -> list[str]:
    """Returns the command that trained each run; runs that Python code started have none."""
    all_arguments = [run.manifest.get("arguments") for run in runs]
    return [shlex.join(["python", "-m", "seer_jax.train", *arguments]) for arguments in all_arguments if arguments]


def _versions(runs: Sequence[RunRecords]) -> dict[str, str]:
    """Returns the versions of each package, several where runs were made with different ones."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for name, version in (run.manifest["packages"] | {"commit": run.manifest["git_commit"] or "unknown"}).items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _png_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _video_url(video: pathlib.Path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(video.read_bytes()).decode()}"


def _is_small(video: pathlib.Path) -> bool:
    return video.stat().st_size <= _MAX_VIDEO_BYTES


def _write_csv(path: pathlib.Path, curves: Sequence[Curve]) -> None:
    with path.open("w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["task", "arm", "seed", *AXES, "eval_return_mean"])
        for curve in curves:
            for s, (seed, returns) in enumerate(zip(curve.seeds, curve.scores, strict=True)):
                for i, value in enumerate(returns):
                    writer.writerow([curve.task, curve.arm, seed, *(curve.x[field][s][i] for field in AXES), value])


def _write_section_images(path: pathlib.Path, sections: Sequence[Section]) -> None:
    for section in sections:
        slug = re.sub(r"\W+", "-", section.title.lower())
        for i, (caption, png) in enumerate(section.images, start=1):
            description = PngImagePlugin.PngInfo()
            description.add_itxt("Title", f"{section.title}, {caption}")
            description.add_itxt("Description", section.text)
            image_path = path.with_name(f"{path.stem}-{slug}-{i}.png")
            Image.open(io.BytesIO(png)).save(image_path, pnginfo=description, optimize=True)


def _markdown(shown: Sequence[Table], sections: Sequence[Section]) -> str:
    texts = [f"{table.title}\n\n{table.to_markdown()}\n{table.note}\n" for table in shown]
    return "\n".join([*texts, *(f"{section.title}\n\n{section.text}\n" for section in sections)])
