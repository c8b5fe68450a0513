"""Styles of many lines in one plot, distinguishable with every kind of colour vision and in print without colours."""

from typing import Any, NamedTuple

# Okabe and Ito 2008, without their yellow, which is too pale for a line on white.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# Names of Plotly, and what Matplotlib calls the same.
_DASHES = {"solid": "-", "dashdot": "-.", "dash": "--", "dot": ":"}
_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v"}


class Style(NamedTuple):
    """How a line is drawn.

    Attributes:
      color: as `#rrggbb`.
      dash: Plotly's name of its pattern.
      marker: Plotly's name of the symbol at its points.
    """

    color: str
    dash: str
    marker: str

    @property
    def matplotlib(self) -> dict[str, Any]:
        """Arguments of Matplotlib's `plot`."""
        return {"color": self.color, "ls": _DASHES[self.dash], "marker": _MARKERS[self.marker], "ms": 3.5}


def nth(i: int) -> Style:
    """Returns the style of the `i`-th line of a plot, from 0; 140 lines have different styles.

    Successive lines differ in colour and marker, and from the eighth on in the pattern, too.
    """
    return Style(
        _COLORS[i % len(_COLORS)],
        list(_DASHES)[i // len(_COLORS) % len(_DASHES)],
        list(_MARKERS)[i % len(_MARKERS)],
    )
