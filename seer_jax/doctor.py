"""Checks a machine: packages, devices, environments, rendering, disk, memory, compiled programs; names a fix for each.

python -m seer_jax.doctor    # exits with 1 if a line is red
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np
import rich.console
import rich.markup
import rich.table
from packaging.requirements import Requirement

from seer_jax import TESTED_JAXLIB, cli
from seer_jax.envs import atari
from seer_jax.run import needs, targets

GREEN, YELLOW, RED = "green", "yellow", "red"
_REQUIREMENTS = pathlib.Path(__file__).parents[1] / "requirements.txt"
_MIN_FREE_BYTES = 10e9  # three checkpoints of the paper's Atari run and its frames
_MIN_MEMORY_BYTES = 4e9
# Prints the renderer, and whether it renders the same image twice. It runs in its own process, since drivers may abort.
_RENDER = """
import json, os
os.environ.setdefault("MUJOCO_GL", "egl")
from seer_jax.envs import dmc
import mujoco, numpy as np
pool = dmc.DmcEnv("cartpole-swingup", seeds=[0], image_size=84, action_repeat=8, camera_id=0)
first = pool.reset().frame
context = mujoco.GLContext(84, 84)
context.make_current()
from OpenGL import GL
renderer = GL.glGetString(GL.GL_RENDERER).decode()
same = bool((first == pool._backend.render(np.array([0]))).all())
print(json.dumps({"same": same, "contrast": int(np.ptp(first)), "by": renderer}), flush=True)
os._exit(0)  # some drivers abort at a regular exit
"""


class Finding(NamedTuple):
    """A line of the report.

    Attributes:
      level: green, yellow (works with a drawback) or red.
      subject: what was checked.
      message: what was found.
      fix: a command or an action that makes it green.
    """

    level: str
    subject: str
    message: str
    fix: str = ""


def check_python() -> Iterable[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    level = RED if sys.version_info < (3, 11) else GREEN if sys.version_info < (3, 14) else YELLOW
    fix = "" if level == GREEN else "use Python 3.11, 3.12 or 3.13, which are tested"
    yield Finding(level, "Python", version, fix)


def check_packages() -> Iterable[Finding]:
    required = [r for r in _requirements() if r.marker is None or r.marker.evaluate({"extra": ""})]
    differ = 0
    for requirement in required:
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found == "missing" or not requirement.specifier.contains(found, prereleases=True):
            differ += 1
            level = RED if found == "missing" else YELLOW
            wanted = f"{requirement.name}{requirement.specifier}"
            yield Finding(
                level, requirement.name, f"{found}, tested with {requirement.specifier}", f"pip install '{wanted}'"
            )
    if not differ:
        yield Finding(GREEN, "packages", f"all {len(required)} as tested")


def _requirements() -> list[Requirement]:
    """Returns the pins of a checkout, or the ranges of an installed package."""
    if _REQUIREMENTS.exists():
        lines = [line for line in _REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    else:
        lines = importlib.metadata.requires("seer_jax") or []
    return list(map(Requirement, lines))


def check_devices() -> Iterable[Finding]:
    devices = jax.devices()
    yield Finding(GREEN, "JAX devices", ", ".join(map(str, devices)))
    if jax.default_backend() == "cpu":
        option = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
        if option in os.environ.get("XLA_FLAGS", ""):
            yield Finding(GREEN, "CPU convolutions", "fast kernels are chosen")
        else:
            versions = " or ".join(TESTED_JAXLIB)
            fix = f"import seer_jax before JAX starts, or export XLA_FLAGS={option} (for jaxlib {versions})"
            yield Finding(YELLOW, "CPU convolutions", "slow kernels are chosen by XLA_FLAGS", fix)
    if shutil.which("nvidia-smi") and jax.default_backend() == "cpu":
        fix = f"pip install 'jax[cuda12]=={jax.__version__}'"
        yield Finding(YELLOW, "GPU", "there is one, and JAX does not use it", fix)


def check_atari() -> Iterable[Finding]:
    yield Finding(GREEN, "Atari games", f"{len(atari.games())} in EnvPool")
    starts = [_play_pong(seed) for seed in (0, 0, 1)]
    same, differ = np.array_equal(starts[0], starts[1]), not np.array_equal(starts[0], starts[2])
    level = GREEN if same and differ else RED
    message = "only equal seeds give equal games" if level == GREEN else "games do not follow from their seeds"
    yield Finding(level, "Atari seeds", message, "" if level == GREEN else "pip install -r requirements.txt")


def _play_pong(seed: int) -> np.ndarray:
    env = atari.AtariEnv(
        "pong",
        seeds=[seed, seed + 2],
        protocol=atari.PROTOCOLS["seer"],
        image_size=84,
        action_repeat=4,
        training=True,
    )
    env.reset()
    frames = np.stack([env.step(np.full(2, t % 6)).frame for t in range(60)])
    env.close()
    return frames


def check_rendering() -> Iterable[Finding]:
    done = subprocess.run([sys.executable, "-c", _RENDER], capture_output=True, text=True, timeout=300, check=False)
    fix = "apt-get install libegl1 libgl1-mesa-dri, or the GPU vendor's driver; Atari needs none of it"
    try:
        rendered = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        yield Finding(YELLOW, "rendering (Control)", lines[-1][:200], fix)
        return
    if not rendered["same"] or not rendered["contrast"]:
        problem = "black" if not rendered["contrast"] else "not the same twice"
        yield Finding(RED, "rendering (Control)", f"{rendered['by']}: images are {problem}", fix)
        return
    software = "llvmpipe" in rendered["by"] or "softpipe" in rendered["by"]
    hint = "no GPU renders here: env.render_quality=fast is several times as fast" if software else ""
    yield Finding(
        YELLOW if software else GREEN, "rendering (Control)", f"by {rendered['by']}, the same image twice", hint
    )


def check_disk_and_memory() -> Iterable[Finding]:
    free = shutil.disk_usage(".").free
    enough = free >= _MIN_FREE_BYTES
    fix = "" if enough else "free some, or put --run_dir on another disk: checkpoints hold the whole replay ring"
    yield Finding(GREEN if enough else YELLOW, "disk", f"{free / 1e9:,.1f} GB free here", fix)
    memory = needs.device_memory()
    enough = memory >= _MIN_MEMORY_BYTES
    fix = "" if enough else "see with --plan what a run needs; the preset constrained needs little"
    yield Finding(GREEN if enough else YELLOW, "device memory", f"{memory / 1e9:,.1f} GB", fix)


def check_compile_cache() -> Iterable[Finding]:
    cli.use_compilation_cache()
    path = pathlib.Path(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        fix = f"make {path} writable, or export JAX_COMPILATION_CACHE_DIR=DIR"
        yield Finding(YELLOW, "compiled programs", f"cannot be kept in {path}: {error.strerror}", fix)
        return
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    yield Finding(GREEN, "compiled programs", f"kept in {path} ({size / 1e6:,.0f} MB)")


def check_targets() -> Iterable[Finding]:
    missing = {target.name: target.missing for target in targets.TARGETS.values()}
    names = [name for name, command in missing.items() if command is None]
    others = sorted({command for command in missing.values() if command is not None})
    message = f"--plan --target= {', '.join(names)}" if names else "for no other device than this one"
    yield Finding(GREEN, "plans", message, " and ".join(others) and f"for more: {' and '.join(others)}")


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    check_python,
    check_packages,
    check_devices,
    check_atari,
    check_rendering,
    check_disk_and_memory,
    check_compile_cache,
    check_targets,
)


def examine(checks: Iterable[Callable[[], Iterable[Finding]]] = CHECKS) -> list[Finding]:
    """Runs checks one after the other; a check that raises an error becomes a red line."""
    findings = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:
            subject = check.__name__.removeprefix("check_").replace("_", " ")
            findings.append(Finding(RED, subject, f"{type(error).__name__}: {cli.last_line(error)}"))
    return findings


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv`, whose first element is the program's name; None stands for that of the process.

    Returns:
      The exit code.
    """
    argv = sys.argv if argv is None else argv
    return cli.main(argv, __doc__, cli.make_flags(), lambda values: show(examine()))


def show(findings: list[Finding]) -> int:
    """Prints findings; returns the exit code, 1 if one is red."""
    table = rich.table.Table()
    for column in ("", "", "found", "fix"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        level = f"[{finding.level}]{finding.level}[/]"
        table.add_row(level, *(rich.markup.escape(text) for text in finding[1:]))
    rich.console.Console().print(table)
    return int(any(finding.level == RED for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
