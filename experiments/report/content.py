"""What a report is asked to show besides learning curves and costs."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table of scores.

    Attributes:
      title: of the table.
      arms: the arms to show, the baseline first; None shows all.
      x: field of an evaluation (a key of `curves.AXES`) that `budget` is a value of.
      budget: value of `x` at which scores are compared; None compares the last evaluations.
    """

    title: str = "Scores at the end"
    arms: Sequence[str] | None = None
    x: str = "macs_total"
    budget: float | None = None

    def shown_of(self, evaluated: Sequence[str]) -> list[str]:
        """Returns the arms to show, the baseline first, of those that have an evaluation; others may have failed."""
        return [arm for arm in dict.fromkeys(self.arms or evaluated) if arm in evaluated]


@dataclasses.dataclass(frozen=True)
class Section:
    """A section that only one experiment has.

    Attributes:
      title: of the section.
      text: what its images show.
      images: caption and content of each PNG file.
    """

    title: str
    text: str
    images: Sequence[tuple[str, bytes]]
