"""Trains a run as imprecisely as a TPU multiplies by default: inputs of products are rounded to bfloat16.

python -m experiments.studies.precision --config=configs/rainbow_atari.py --run_dir=DIR    # flags of seer_jax.train

It simulates on the CPU what the default precision of a TPU does to a run: in updates, in acting, and in the latents
that are stored while acting. Evaluations and the handover are not rounded. What the package asks a TPU for beyond its
default (`seer_jax/platforms.py`) has no effect here.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal  # pyright: ignore[reportPrivateImportUsage]

from seer_jax import train
from seer_jax.seer import phases

_PRODUCTS = ("dot_general", "conv_general_dilated")
_BFLOAT16 = {"exponent_bits": 8, "mantissa_bits": 7}


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    for name in ("make_learn", "make_interact"):
        setattr(phases, name, _make_rounded(getattr(phases, name)))
    return train.main(argv)


def _make_rounded(make: Callable[..., Callable]) -> Callable[..., Callable]:
    @functools.wraps(make)
    def make_rounded(*args: Any, **kwargs: Any) -> Callable:
        return rounded(make(*args, **kwargs))

    return make_rounded


def rounded(fn: Callable) -> Callable:
    """Returns a function of arrays that does what `fn` does, with the inputs of all products rounded to bfloat16."""

    def with_rounded_products(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(closed, jax.tree.leaves(args)))

    return with_rounded_products


def _evaluate(closed: ClosedJaxpr, args: list[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(x: Any) -> Any:
        return x.val if isinstance(x, Literal) else values[x]

    for equation in jaxpr.eqns:
        inputs = [read(x) for x in equation.invars]
        if equation.primitive.name in _PRODUCTS:
            inputs = [jax.lax.reduce_precision(x, **_BFLOAT16) for x in inputs]
        params = {name: _round_inside(value) for name, value in equation.params.items()}
        results = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(params))
        results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _round_inside(param: Any) -> Any:
    """Returns a parameter of an operation with rounded products in the programs that it holds."""
    if isinstance(param, ClosedJaxpr):
        return jax.make_jaxpr(lambda *args: _evaluate(param, list(args)))(*param.in_avals)
    if type(param) is tuple:  # branches; other tuples have names
        return tuple(_round_inside(each) for each in param)
    return param


if __name__ == "__main__":
    sys.exit(main(["precision", *sys.argv[1:]]))
