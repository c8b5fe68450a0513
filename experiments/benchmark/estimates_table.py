"""The table of `experiments.benchmark.estimates`, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

_PROGRAMS = ("interact", "learn")
# Figures of programs: how a column calls them, what they are divided by, and their decimals.
_PAIRS = {
    "temporary_bytes": ("temporary MB", 1e6, 1),
    "moved_bytes": ("moved MB", 1e6, 1),
    "flops": ("MFLOP", 1e6, 0),
    "launches": ("kernels", 1, 0),
    "optimal_seconds": ("optimal us", 1e-6, 0),
}
_GAINS = {"moved_bytes": "gain by bytes", "launches": "gain by kernels", "optimal_seconds": "gain by optimal time"}


def table(records: Sequence[Record]) -> str:
    """Returns a table of the records of one target, a row for each; columns of which nothing is known are left out.

    Pairs are `interact / learn`. A gain is by how much more agent steps, of all seeds, the bytes, kernels or optimal
    times of one seed alone would do.
    """
    rows = [_row(record, _alone(record, records)) for record in records]
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    lines = [names, ["---" if name in ("agent", "phase") else "---:" for name in names]]
    lines += [[row[name] or "unknown" for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cost_per_step(record: Record, figure: str) -> float | None:
    """Returns the bytes, kernels or seconds of an agent step of one of the seeds; None if they are not known."""
    total = 0.0
    for program in _PROGRAMS:
        cost = record.get(f"{program}_{figure}")
        if cost is None:
            return None
        total += cost / record[f"{program}_steps"]
    return total


def _alone(record: Record, records: Sequence[Record]) -> Record:
    """Returns the record of one seed of the same agent and phase, empty if there is none."""
    same = (each for each in records if (each["agent"], each["phase"]) == (record["agent"], record["phase"]))
    return next((each for each in same if each["num_seeds"] == 1), {})


def _row(record: Record, alone: Record) -> dict[str, str | None]:
    """Returns the cells by column; None is unknown."""
    row: dict[str, str | None] = {name: str(record[name]) for name in ("agent", "phase")}
    row |= {"seeds": str(record["num_seeds"]), "memory MB": _memory(record)}
    for figure, (name, unit, decimals) in _PAIRS.items():
        costs = [record.get(f"{program}_{figure}") for program in _PROGRAMS]
        known = any(cost is not None for cost in costs)
        cells = ["unknown" if cost is None else f"{cost / unit:,.{decimals}f}" for cost in costs]
        row[name] = " / ".join(cells) if known else None
    speed = record.get("optimal_steps_per_second")
    row["agent steps/s, at most"] = None if speed is None else f"{speed:,.0f}"
    return row | {name: _gain(record, alone, figure) for figure, name in _GAINS.items()}


def _memory(record: Record) -> str:
    if not record["compiled"]:
        return "not compiled"
    return "too large" if record["device_bytes"] is None else f"{record['device_bytes'] / 1e6:,.0f}"


def _gain(record: Record, alone: Record, figure: str) -> str | None:
    here, one = cost_per_step(record, figure), cost_per_step(alone, figure)
    return None if here is None or one is None else f"{one / here:.2f}"
