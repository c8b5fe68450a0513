"""Figures: learning curves as data of the interactive page and as a static image, and differences between arms."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from experiments.report import styles
from experiments.report.content import Comparison, Section
from experiments.report.curves import AXES, Curve
from experiments.report.differences import Difference, Differences, paired_differences
from experiments.report.references import OPEN_LOOP_LABELS, Reference
from experiments.report.styles import Style

_OPEN_LOOP_DASHES = {"Random": "dash", "No force": "dashdot"}  # Plotly's names of the patterns
_PANEL_INCHES = (4.6, 3.4)
_INTERVAL_WIDTHS = (3.0, 1.0)  # of the paired and of the unpaired one, in points
_DIFFERENCES_TEXT = (
    "Differences of scores to {baseline} over pairs of runs of the same task and seed. The upper, thick line of an arm"
    " is the 95% interval of a bootstrap of pairs; the lower, thin one is that of a bootstrap of each arm's seeds"
    " independently. With few seeds both are too narrow."
)


def arm_styles(curves: Sequence[Curve]) -> dict[str, Style]:
    """Returns the style of each arm, the same on every task."""
    return {arm: styles.nth(i) for i, arm in enumerate(dict.fromkeys(curve.arm for curve in curves))}


def panels(curves: Sequence[Curve], references: Sequence[Reference]) -> list[dict[str, Any]]:
    """Returns what the page draws for each task, ready for JSON: curves over every axis, freezes, published scores.

    Values are those of every evaluation of every seed; None stands for scores that are not available. Of a curve with
    a trunk, the page draws those before `first` only while the trunk is hidden.
    """
    by_arm = arm_styles(curves)
    return [
        {
            "task": task,
            "curves": [_panel_curve(curve, by_arm[curve.arm]) for curve in curves if curve.task == task],
            "references": [_panel_reference(reference) for reference in references if reference.task == task],
        }
        for task in dict.fromkeys(curve.task for curve in curves)
    ]


def _panel_curve(curve: Curve, style: Style) -> dict[str, Any]:
    return {
        "arm": curve.arm,
        **style._asdict(),
        "seeds": curve.seeds,
        "x": {field: curve.x[field].tolist() for field in AXES},
        "scores": [[score if np.isfinite(score) else None for score in scores] for scores in curve.scores.tolist()],
        "freeze": curve.freeze,
        "trunk": {"arm": curve.trunk.arm, "first": curve.first_drawn} if curve.trunk else None,
    }


def _panel_reference(reference: Reference) -> dict[str, Any]:
    return {
        "name": OPEN_LOOP_LABELS.get(reference.method, reference.label),
        "openLoop": reference.method in OPEN_LOOP_LABELS,
        "dash": _OPEN_LOOP_DASHES.get(reference.method, "dash"),
        "mean": reference.mean,
        "std": reference.std,
    }


def draw(path: pathlib.Path, curves: Sequence[Curve], references: Sequence[Reference], x: str) -> None:
    """Writes a PNG file with a panel for each task.

    What the curve of a fork shares with that of its trunk is drawn once.

    Args:
      path: of the file.
      curves: to draw.
      references: scores to compare with; those of open-loop policies are drawn.
      x: field of `AXES`.
    """
    tasks, by_arm = list(dict.fromkeys(curve.task for curve in curves)), arm_styles(curves)
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    size = columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + 0.5
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(tasks) :]:
        ax.remove()
    for task, ax in zip(tasks, axes.flat, strict=False):
        _draw_curves(ax, [curve for curve in curves if curve.task == task], by_arm, x)
        _draw_references(ax, [reference for reference in references if reference.task == task])
        ax.set(title=task, xlabel=AXES[x], ylabel="return")
        ax.grid(alpha=0.3)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    drawn = [ax.get_legend_handles_labels() for ax in axes.flat[: len(tasks)]]
    by_label = {label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)}
    figure.legend(
        list(by_label.values()),
        list(by_label),
        loc="outside lower center",
        ncols=min(4, 2 * columns - 1, len(by_label)),
        frameon=False,
    )
    figure.savefig(path, dpi=120)


def _draw_curves(ax: Axes, curves: Sequence[Curve], by_arm: Mapping[str, Style], x: str) -> None:
    for curve in curves:
        style, drawn = by_arm[curve.arm], slice(curve.first_drawn, None)
        steps, mean, std = curve.mean_x(x)[drawn], curve.mean[drawn], curve.std[drawn]
        ax.plot(steps, mean, label=curve.arm, **style.matplotlib)
        ax.fill_between(steps, mean - std, mean + std, color=style.color, alpha=0.2, lw=0)
        if curve.freeze is not None:
            ax.axvline(curve.freeze[x], color=style.color, ls=":", lw=1)


def _draw_references(ax: Axes, references: Sequence[Reference]) -> None:
    for reference in references:
        if reference.method in OPEN_LOOP_LABELS:
            dash = "--" if reference.method == "Random" else "-."
            ax.axhline(reference.mean, color="gray", ls=dash, lw=1, label=OPEN_LOOP_LABELS[reference.method])


def difference_section(curves: Sequence[Curve], comparison: Comparison) -> Section | None:
    """Returns a section with the differences of a comparison as a figure; None if there are too few pairs."""
    found = paired_differences(curves, comparison)
    if found is None:
        return None
    return Section(
        title=f"{comparison.title}, paired differences",
        text=_DIFFERENCES_TEXT.format(baseline=found.baseline),
        images=[(f"differences to {found.baseline}", draw_differences(found, arm_styles(curves)))],
    )


def draw_differences(differences: Differences, by_arm: Mapping[str, Style]) -> bytes:
    """Returns a PNG file with a panel for each task, and in it the mean difference and both intervals of each arm.

    Args:
      differences: to draw.
      by_arm: the style of each arm.
    """
    tasks, arms = ({getattr(row, name): None for row in differences.rows} for name in ("task", "arm"))
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    size = columns * _PANEL_INCHES[0], rows * (0.9 + 0.45 * len(arms)) + 0.5
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(tasks) :]:
        ax.remove()
    for task, ax in zip(sorted(tasks, key=lambda task: task is None), axes.flat, strict=False):  # over all tasks last
        for row in (row for row in differences.rows if row.task == task):
            _draw_difference(ax, list(arms).index(row.arm), row, by_arm[row.arm])
        ax.axvline(0.0, color="gray", lw=1)
        ax.set(title=task or "all tasks, human-normalised", xlabel=f"difference to {differences.baseline}")
        ax.set(yticks=range(len(arms)), yticklabels=list(arms), ylim=(len(arms) - 0.5, -0.5))
        ax.grid(alpha=0.3)
    figure.legend(
        [Line2D([], [], color="black", lw=width) for width in _INTERVAL_WIDTHS],
        ["paired", "unpaired"],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format="png")
    return png.getvalue()


def _draw_difference(ax: Axes, position: int, row: Difference, style: Style) -> None:
    (mean,) = ax.plot([row.mean], [position - 0.1], **style.matplotlib)
    mean.set_markersize(7)
    for interval, offset, width in zip((row.paired, row.unpaired), (-0.1, 0.1), _INTERVAL_WIDTHS, strict=True):
        if interval is not None:
            ax.plot(interval, [position + offset] * 2, color=style.color, lw=width)
