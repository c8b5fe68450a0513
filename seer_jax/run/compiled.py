"""What XLA says of a compiled program: memory, bytes moved, FLOPs, launches, time. What it leaves out stays unknown."""

import re
from typing import Any, NamedTuple

import jax

# The header of a computation in the text of a program, and one of its instructions: `%name = TYPE opcode(`.
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][a-z0-9\-]*)\(")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = {
    "while": re.compile(r"\bbody=%?([\w.\-]+)"),
    "call": re.compile(r"\bto_apply=%?([\w.\-]+)"),
    "async-start": re.compile(r"\bcalls=%?([\w.\-]+)"),
}
# Instructions that start nothing on the device.
_SILENT = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "async-update",
}


class ProgramCost(NamedTuple):
    """What a call of a compiled program costs; None is unknown.

    Attributes:
      argument_bytes: device memory of its arguments, as the device lays them out.
      temporary_bytes: device memory apart from its arguments: temporaries, and results not written over an argument.
      moved_bytes: bytes read from and written to device memory.
      flops: floating point operations.
      launches: kernels and copies that a GPU is given, one by one.
      optimal_seconds: the compiler's estimate of the shortest time in seconds.
    """

    argument_bytes: int
    temporary_bytes: int
    moved_bytes: float | None
    flops: float | None
    launches: int | None
    optimal_seconds: float | None


def cost(program: jax.stages.Compiled, *, platform: str, loop_length: int = 1) -> ProgramCost:
    """Reads the costs of a call from a compiled program.

    Args:
      program: compiled, for a device of this machine or for another.
      platform: `cpu`, `cuda` or `tpu`.
      loop_length: iterations of the loop that the program consists of, whose body XLA counts once.
    """
    memory: Any = program.memory_analysis()
    analysis: Any = program.cost_analysis() or {}

    def per_call(name: str) -> float | None:
        value = analysis.get(name, -1.0)  # XLA writes a negative number where it does not know
        return value * loop_length if value >= 0 else None

    return ProgramCost(
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        moved_bytes=per_call("bytes accessed"),
        flops=per_call("flops"),
        launches=launches(program.as_text() or "") if platform == "cuda" else None,
        optimal_seconds=per_call("optimal_seconds"),
    )


def launches(text: str) -> int | None:
    """Returns how many kernels and copies an optimized program launches, with all iterations of its loops.

    Args:
      text: the program, as `jax.stages.Compiled.as_text` gives it.

    Returns:
      The number; None if it depends on data: a loop whose length is unknown, or a branch.
    """
    computations, entry, lines = dict[str, list[str]](), "", list[str]()
    for line in text.splitlines():
        if header := _HEADER.match(line):
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif _INSTRUCTION.match(line):
            lines.append(line)
    return _launches_of(entry, computations)


def _launches_of(name: str, computations: dict[str, list[str]]) -> int | None:
    total = 0
    for line in computations.get(name, ()):
        (opcode,) = _INSTRUCTION.findall(line)
        if opcode in _SILENT or opcode.endswith("-done"):
            continue
        times, count = 1, 1
        if opcode == "while":
            known = _TRIP_COUNT.search(line)
            times = int(known[1]) if known else None
        if called := opcode in _CALLED and _CALLED[opcode].search(line):
            count = _launches_of(called[1], computations)
        if opcode == "conditional" or times is None or count is None:
            return None
        total += times * count
    return total
