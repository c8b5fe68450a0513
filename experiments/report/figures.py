"""Learning curves as figures: the data of the interactive page, and a static image."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments.report.curves import AXES, Curve
from experiments.report.references import OPEN_LOOP_LABELS, Reference

# Colours that are distinguishable with every kind of colour vision (Okabe and Ito 2008), baseline first.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
_DASHES = ("solid", "dashdot")  # names that both Matplotlib and Plotly know
_PANEL_INCHES = (4.6, 3.4)

Styles = dict[str, tuple[str, str]]  # colour and dash, by arm


def styles(curves: Sequence[Curve]) -> Styles:
    """Returns a colour and a dash for each arm, the same on every task; from the 17th arm on they repeat."""
    arms = dict.fromkeys(curve.arm for curve in curves)
    return dict(zip(arms, itertools.cycle((color, dash) for dash in _DASHES for color in _COLORS), strict=False))


def panels(curves: Sequence[Curve], references: Sequence[Reference]) -> list[dict[str, Any]]:
    """Returns what the page draws for each task, ready for JSON: curves over every axis, freezes, published scores."""
    by_arm = styles(curves)
    return [
        {
            "task": task,
            "curves": [_panel_curve(curve, *by_arm[curve.arm]) for curve in curves if curve.task == task],
            "references": [{"label": r.label, "mean": r.mean, "std": r.std} for r in references if r.task == task],
        }
        for task in dict.fromkeys(curve.task for curve in curves)
    ]


def _panel_curve(curve: Curve, color: str, dash: str) -> dict[str, Any]:
    return {
        "arm": curve.arm,
        "color": color,
        "dash": dash,
        "seeds": curve.seeds,
        "x": {field: curve.mean_x(field).tolist() for field in AXES},
        "mean": curve.mean.tolist(),
        "low": (curve.mean - curve.std).tolist(),
        "high": (curve.mean + curve.std).tolist(),
        "freeze": curve.freeze,
    }


def draw(path: pathlib.Path, curves: Sequence[Curve], references: Sequence[Reference], x: str) -> None:
    """Writes a PNG file with a panel for each task.

    Args:
      path: of the file.
      curves: to draw.
      references: scores to compare with; those of open-loop policies are drawn.
      x: field of `AXES`.
    """
    tasks, by_arm = list(dict.fromkeys(curve.task for curve in curves)), styles(curves)
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


def _draw_curves(ax: Axes, curves: Sequence[Curve], by_arm: Styles, x: str) -> None:
    for curve in curves:
        color, dash = by_arm[curve.arm]
        steps = curve.mean_x(x)
        ax.plot(steps, curve.mean, color=color, ls=dash, label=curve.arm)
        ax.fill_between(steps, curve.mean - curve.std, curve.mean + curve.std, color=color, alpha=0.2, lw=0)
        if curve.freeze is not None:
            ax.axvline(curve.freeze[x], color=color, ls=":", lw=1)


def _draw_references(ax: Axes, references: Sequence[Reference]) -> None:
    for reference in references:
        if reference.method in OPEN_LOOP_LABELS:
            dash = "--" if reference.method == "Random" else "-."
            ax.axhline(reference.mean, color="gray", ls=dash, lw=1, label=OPEN_LOOP_LABELS[reference.method])
