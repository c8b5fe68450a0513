"""Learning curves as pictures: data for the interactive page, and a static one."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments.curves import AXES, Curve
from experiments.references import BLIND, Reference

# Told apart with every kind of colour vision (Okabe and Ito 2008), baseline first; where they end, dashes begin.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
_DASHES = ("solid", "dashdot")  # as both Matplotlib and Plotly call them
_PANEL_INCHES = (4.6, 3.4)


def styles(lines: Sequence[Curve]) -> dict[str, tuple[str, str]]:
    """Returns a colour and a dash for each arm, the same on every task; the seventeenth arm has those of the first."""
    arms = dict.fromkeys(line.arm for line in lines)
    return dict(zip(arms, itertools.cycle((color, dash) for dash in _DASHES for color in _COLORS), strict=False))


def panels(lines: Sequence[Curve], references: Sequence[Reference]) -> list[dict[str, Any]]:
    """Returns what the page draws of each task, for JSON: curves over every axis, freezes, published scores."""
    by_arm = styles(lines)
    return [
        {
            "task": task,
            "curves": [
                {
                    "arm": line.arm,
                    "color": by_arm[line.arm][0],
                    "dash": by_arm[line.arm][1],
                    "seeds": line.seeds,
                    "x": {field: line.mean_x(field).tolist() for field in AXES},
                    "mean": line.mean.tolist(),
                    "low": (line.mean - line.std).tolist(),
                    "high": (line.mean + line.std).tolist(),
                    "freeze": line.freeze,
                }
                for line in lines
                if line.task == task
            ],
            "references": [{"label": r.label, "mean": r.mean, "std": r.std} for r in references if r.task == task],
        }
        for task in dict.fromkeys(line.task for line in lines)
    ]


def draw(path: pathlib.Path, lines: Sequence[Curve], references: Sequence[Reference], x: str) -> None:
    """Draws a panel for each task as PNG.

    Args:
      path: of the picture.
      lines: the curves.
      references: scores to compare with; those of policies that look at nothing are drawn.
      x: field of `AXES`.
    """
    tasks, by_arm = list(dict.fromkeys(line.task for line in lines)), styles(lines)
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    size = columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + 0.5
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(tasks) :]:
        ax.remove()
    for task, ax in zip(tasks, axes.flat, strict=False):
        for line in (line for line in lines if line.task == task):
            color, dash = by_arm[line.arm]
            steps = line.mean_x(x)
            ax.plot(steps, line.mean, color=color, ls=dash, label=line.arm)
            ax.fill_between(steps, line.mean - line.std, line.mean + line.std, color=color, alpha=0.2, lw=0)
            if line.freeze is not None:
                ax.axvline(line.freeze[x], color=color, ls=":", lw=1)
        for reference in (r for r in references if r.task == task and r.method in BLIND):
            dash = "--" if reference.method == "Random" else "-."
            ax.axhline(reference.mean, color="gray", ls=dash, lw=1, label=BLIND[reference.method])
        ax.set(title=task, xlabel=AXES[x], ylabel="return")
        ax.grid(alpha=0.3)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    drawn = [ax.get_legend_handles_labels() for ax in axes.flat[: len(tasks)]]
    by_label = {label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)}
    figure.legend(
        by_label.values(),
        by_label,
        loc="outside lower center",
        ncols=min(4, 2 * columns - 1, len(by_label)),
        frameon=False,
    )
    figure.savefig(path, dpi=120)
