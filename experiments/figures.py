"""Learning curves as pictures: data for the interactive page, and a static one."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments.curves import AXES, Curve
from experiments.references import Reference

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
                    "x": {field: line.x[field].tolist() for field in AXES},
                    "mean": line.mean.tolist(),
                    "low": (line.mean - line.std).tolist(),
                    "high": (line.mean + line.std).tolist(),
                    "freeze": line.freeze,
                }
                for line in lines
                if line.task == task
            ],
            "references": [{"label": r.label, "mean": r.mean} for r in references if r.task == task],
        }
        for task in dict.fromkeys(line.task for line in lines)
    ]


def draw(path: pathlib.Path, lines: Sequence[Curve], references: Sequence[Reference], x: str) -> None:
    """Draws a panel for each task as PNG.

    Args:
      path: of the picture.
      lines: the curves.
      references: published scores; those of the paper that SEER comes from are drawn.
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
            ax.plot(line.x[x], line.mean, color=color, ls=dash, label=f"{line.arm} ({len(line.seeds)} seeds)")
            ax.fill_between(line.x[x], line.mean - line.std, line.mean + line.std, color=color, alpha=0.2, lw=0)
            if line.freeze is not None:
                ax.axvline(line.freeze[x], color=color, ls=":", lw=1)
        for reference in (r for r in references if r.task == task and r.is_random):
            ax.axhline(reference.mean, color="gray", ls="--", lw=1, label="random play")
        ax.set(title=task, xlabel=AXES[x], ylabel="return")
        ax.grid(alpha=0.3)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=120)
