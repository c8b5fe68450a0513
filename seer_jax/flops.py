"""Costs of programs: XLA's own count, an independent count, and the totals of a run.

Costs are given in two conventions. XLA counts floating-point operations, a multiply-add being two. The paper counts
multiply-accumulates of matrix products and convolutions, and counts a backward pass as two forward passes.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

KINDS = ("act", "encode", "update", "signal", "handover")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of some work.

    Attributes:
      flops: floating-point operations as XLA counts them.
      macs: multiply-accumulates as the paper counts them.
    """

    flops: float = 0.0
    macs: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.macs + other.macs)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.macs * times)


class Passes(NamedTuple):
    """How often an update runs one network on a batch.

    Attributes:
      macs: multiply-accumulates of a forward pass on one sample.
      forward: forward passes.
      backward: backward passes, with respect to inputs, parameters or both.
    """

    macs: float
    forward: float
    backward: float


def paper_macs(passes: Iterable[Passes], batch_size: int) -> float:
    """Returns the cost of one update in the paper's convention: `b F M + 2 b B M`, summed over networks."""
    return batch_size * sum(p.macs * (p.forward + 2 * p.backward) for p in passes)


class Ledger:
    """The cost of a run so far, by kind of work.

    Args:
      saved: totals of another ledger, from `to_json`, to continue from.
    """

    def __init__(self, saved: dict[str, list[float]] | None = None) -> None:
        self.totals = dict.fromkeys(KINDS, Cost()) | {kind: Cost(*cost) for kind, cost in (saved or {}).items()}

    def to_json(self) -> dict[str, list[float]]:
        """Returns FLOPs and multiply-accumulates by kind, for JSON."""
        return {kind: [cost.flops, cost.macs] for kind, cost in self.totals.items()}

    def add(self, costs: dict[str, Cost]) -> None:
        """Adds the costs of some work by kind."""
        for kind, cost in costs.items():
            self.totals[kind] += cost

    @property
    def total(self) -> Cost:
        """Cost over all kinds of work."""
        return sum(self.totals.values(), Cost())

    def by_kind(self) -> dict[str, float]:
        """Returns `flops_KIND` and `macs_KIND` for each kind of work."""
        named = {f"flops_{kind}": cost.flops for kind, cost in self.totals.items()}
        return named | {f"macs_{kind}": cost.macs for kind, cost in self.totals.items()}


def xla_flops(stage: jax.stages.Lowered | jax.stages.Compiled) -> float:
    """Returns XLA's count for a program; the body of a loop is counted once."""
    costs: Any = stage.cost_analysis()
    return float(costs.get("flops", 0.0))


def cost_of(fn: Callable, *args: Any) -> Cost:
    """Returns the cost of one call of a function without loops or gradients; it is lowered, not compiled.

    Args:
      fn: the function.
      args: its arguments, or their shapes and dtypes.
    """
    return Cost(xla_flops(jax.jit(fn).lower(*args)), count_macs(fn, *args))


def count_macs(fn: Callable, *args: Any) -> float:
    """Counts multiply-accumulates of the matrix products and convolutions of a function, loops multiplied out.

    Multiplications with padding, and with the zeros between the rows of a dilated operand, are not counted: the count
    of a convolution's gradient does not depend on how it is written. Work that no output needs is not counted either.
    Where platforms have forms of their own, the form of all others is counted: a count does not depend on the device.

    Args:
      fn: the function.
      args: its arguments, or their shapes and dtypes.

    Raises:
      ValueError: a loop of unknown length holds a product, or branches differ.
    """
    jaxpr = jax.make_jaxpr(jax.jit(fn))(*args).jaxpr  # without jit, JAX would choose the forms of this platform
    needed, _ = partial_eval.dce_jaxpr(jaxpr, used_outputs=[True] * len(jaxpr.outvars))
    return _count(needed)


def _count(jaxpr: core.Jaxpr) -> float:
    platform = {id(e.outvars[0]) for e in jaxpr.eqns if e.primitive.name == "platform_index"}
    return sum(_count_equation(e, by_platform=any(id(x) in platform for x in e.invars)) for e in jaxpr.eqns)


def _count_equation(equation: core.JaxprEqn, *, by_platform: bool) -> float:
    name, params = equation.primitive.name, equation.params
    shapes = [getattr(x.aval, "shape", ()) for x in (*equation.invars, *equation.outvars)]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return float(np.prod(shapes[-1]) * np.prod([shapes[0][axis] for axis in contracted]))
    if name == "conv_general_dilated":
        lhs, rhs, out = shapes
        return _count_convolution(lhs, rhs, out, params)
    inner = [_count(jaxpr) for jaxpr in core.jaxprs_in_params(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "while" and any(inner):
        raise ValueError("a while loop holds a matrix product; its number of steps is unknown, use scan")
    if name == "cond":
        if by_platform:
            return inner[-1]
        if len(set(inner)) > 1:
            raise ValueError(f"branches of a cond cost {inner}; the cost of a call is unknown")
        return inner[0]
    return sum(inner)


def _count_convolution(
    lhs: tuple[int, ...], rhs: tuple[int, ...], out: tuple[int, ...], params: dict[str, Any]
) -> float:
    lhs_axes, rhs_axes, out_axes = params["dimension_numbers"]
    pairs = [
        _pairs(lhs[i], rhs[k], out[o], *geometry)
        for i, k, o, *geometry in zip(
            lhs_axes[2:],
            rhs_axes[2:],
            out_axes[2:],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    ]
    batch, features, inputs = out[out_axes[0]], out[out_axes[1]], rhs[rhs_axes[1]]
    return float(batch * features * inputs * np.prod(pairs))


def _pairs(
    inputs: int, kernel: int, outputs: int, stride: int, padding: tuple[int, int], lhs_dilation: int, rhs_dilation: int
) -> int:
    """Counts the pairs of an output and a kernel position, along one axis, that meet an input."""
    at = np.arange(outputs)[:, None] * stride + np.arange(kernel) * rhs_dilation - padding[0]
    return int(np.sum((at >= 0) & (at % lhs_dilation == 0) & (at // lhs_dilation < inputs)))
