"""Learning curves as figures: the data of the interactive page, and a static image."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments.report import styles
from experiments.report.curves import AXES, Curve
from experiments.report.references import OPEN_LOOP_LABELS, Reference
from experiments.report.styles import Style

_OPEN_LOOP_DASHES = {"Random": "dash", "No force": "dashdot"}  # Plotly's names of the patterns
_PANEL_INCHES = (4.6, 3.4)


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
