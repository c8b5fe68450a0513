"""Signals of encoders: a figure of how they change until the freeze, and tables of their stages and their cost."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from experiments.report import records
from experiments.report.content import Section
from experiments.report.records import RunRecords
from experiments.report.styles import Style
from experiments.report.tables import Table
from seer_jax.run.records import Record

_PANELS = {
    "drift_ratio": "drift since half the age / drift since untrained",
    "drift_half": "drift since half the age",
    "drift_untrained": "drift since untrained",
}
_INCHES = (9.2, 6.2)
_STAGE = "drift_half_"  # begins the fields of stages
_TEXT = (
    "The drift between two encoders of a run is one minus the centred kernel alignment of their features on the same"
    " states. The lines of an arm are its seeds, and dotted vertical lines mark the freezes. Signals that a fork shares"
    " with its trunk are drawn once, as those of the trunk."
)
_STAGE_NOTE = (
    "Medians over the signals of all seeds, without those that a fork shares with its trunk. Features are the outputs"
    " of the last stage that freezes. seer.freeze_through can freeze the first stages alone."
)
_COST_NOTE = (
    "Means over seeds of the finished runs with signals. Of two shares, the first is that of the full phase, which is"
    " the only one with signals, and the second that of the whole run. Time includes evaluations and compilation, and"
    " depends on what else the machine was running; of seeds that are trained together, a signal counts its share of"
    " the time. A fork counts the signals of its trunk as its own."
)


class _Cost(NamedTuple):
    """Cost of all signals of a run, or a mean over runs.

    Attributes:
      signals: how many there are.
      macs: multiply-accumulates.
      macs_of_full: share of those of the full phase.
      macs_of_run: share of those of the whole run.
      seconds: wall-clock time.
      seconds_of_full: share of that of the full phase.
      seconds_of_run: share of that of the whole run.
    """

    signals: float
    macs: float
    macs_of_full: float
    macs_of_run: float
    seconds: float
    seconds_of_full: float
    seconds_of_run: float


def section(runs: Sequence[RunRecords], by_arm: Mapping[str, Style]) -> Section | None:
    """Returns a section with a figure of the signals on each task; None if no run has any.

    Args:
      runs: of which those without signals, and those of arms without a style, are left out.
      by_arm: the style of each arm.
    """
    measured = [run for run in runs if run.of_kind("signal") and run.arm in by_arm]
    tasks = dict.fromkeys(run.task for run in measured)
    images = [(task, _draw([run for run in measured if run.task == task], by_arm)) for task in tasks]
    return Section("Signals of the encoder", _TEXT, images) if images else None


def drawn_signals(run: RunRecords, runs: Sequence[RunRecords]) -> list[Record]:
    """Returns the signals with which the line of a run is drawn, in order.

    The line of a fork begins at the last signal that it shares with its trunk, if that is one of `runs`; it has none if
    it shares all.
    """
    found, trunk = run.of_kind("signal"), records.trunk_of(run, runs)
    shared = {(each["env_steps"], each["drift_untrained"]) for each in (trunk.of_kind("signal") if trunk else ())}
    own = [i for i, each in enumerate(found) if (each["env_steps"], each["drift_untrained"]) not in shared]
    return found[max(own[0] - 1, 0) :] if own else []


def quantities(signal: Record) -> dict[str, float]:
    """Returns what is drawn of a signal, by name; NaN for what it does not say, and for ratios to 0 or less."""
    half, untrained = signal.get("drift_half", math.nan), signal["drift_untrained"]
    ratio = half / untrained if untrained > 0 else math.nan
    return {"drift_half": half, "drift_untrained": untrained, "drift_ratio": ratio}


def _draw(runs: Sequence[RunRecords], by_arm: Mapping[str, Style]) -> bytes:
    """Returns a PNG file with a panel for each quantity, and in it a line for each run of a task."""
    figure = Figure(figsize=_INCHES, layout="constrained")
    panels = figure.subplot_mosaic([["drift_ratio", "drift_ratio"], ["drift_half", "drift_untrained"]])
    for name, ax in panels.items():
        for run in runs:
            _draw_run(ax, name, run, drawn_signals(run, runs), by_arm[run.arm])
        ax.set_title(_PANELS[name], fontsize=11)
        ax.grid(alpha=0.3)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set_xlabel("agent steps")
    panels["drift_ratio"].set_yscale("log")
    arms = dict.fromkeys(run.arm for run in runs)
    figure.legend(
        [Line2D([], [], **by_arm[arm].matplotlib) for arm in arms],
        list(arms),
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format="png")
    return png.getvalue()


def _draw_run(ax: Axes, name: str, run: RunRecords, drawn: Sequence[Record], style: Style) -> None:
    steps, values = [each["env_steps"] for each in drawn], [quantities(each)[name] for each in drawn]
    ax.plot(steps, values, **style.matplotlib | {"ms": 2.5, "lw": 1})
    for freeze in run.of_kind("freeze"):
        ax.axvline(freeze["env_steps"], color=style.color, ls=":", lw=1)


def tables(runs: Sequence[RunRecords]) -> list[Table]:
    """Returns a table of the drift of each stage, and one of what measuring signals costs, as far as runs have any."""
    return [table for table in (_stage_table(runs), _cost_table(runs)) if table.rows]


def _stage_table(runs: Sequence[RunRecords]) -> Table:
    """Returns a row for each task, arm and stage before the features."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for run in runs:
        for signal in drawn_signals(run, runs):
            for name in signal:
                if name.startswith(_STAGE):
                    groups.setdefault((run.task, run.arm, name), []).append(signal)
    rows = []
    for (task, arm, name), found in groups.items():
        stage, features = (float(np.median([signal[field] for signal in found])) for field in (name, "drift_half"))
        ratio = f"{stage / features:.3f}" if features > 0 else ""
        rows.append([task, arm, name.removeprefix(_STAGE), f"{len(found):,}", f"{stage:.5f}", f"{features:.5f}", ratio])
    head = ["task", "arm", "stage", "signals", "its drift", "drift of the features", "ratio"]
    return Table("Drift since half the age, by stage", head, rows, _STAGE_NOTE)


def _cost_table(runs: Sequence[RunRecords]) -> Table:
    """Returns a row for each task and arm of finished runs with signals."""
    groups: dict[tuple[str, str], list[_Cost]] = {}
    for run in runs:
        if run.end is not None and run.of_kind("signal"):
            groups.setdefault((run.task, run.arm), []).append(_cost(run, run.end))
    head = ["task", "arm", "signals", "MMAC per signal", "seconds per signal", "share of MAC", "share of time"]
    rows = []
    for group, costs in groups.items():
        mean = _Cost(*np.mean(costs, axis=0).tolist())
        rows.append(
            [
                *group,
                f"{mean.signals:,.0f}",
                f"{mean.macs / mean.signals / 1e6:,.0f}",
                f"{mean.seconds / mean.signals:,.2f}",
                f"{mean.macs_of_full:.2%} / {mean.macs_of_run:.2%}",
                f"{mean.seconds_of_full:.2%} / {mean.seconds_of_run:.2%}",
            ]
        )
    return Table("Cost of signals", head, rows, _COST_NOTE)


def _cost(run: RunRecords, end: Record) -> _Cost:
    found = run.of_kind("signal")
    full = [line for line in run.lines if line.get("phase") == "full"][-1]
    macs, seconds = end["macs_signal"], sum(each["measure_seconds"] for each in found)
    return _Cost(
        signals=len(found),
        macs=macs,
        macs_of_full=macs / full["macs_total"],
        macs_of_run=macs / end["macs_total"],
        seconds=seconds,
        seconds_of_full=seconds / full["seconds"],
        seconds_of_run=seconds / end["seconds"],
    )
