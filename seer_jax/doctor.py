"""Checks a machine: packages, devices, environments, rendering, disk, memory, compiled programs; says each cure.

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

from seer_jax import cli
from seer_jax.envs import atari
from seer_jax.run import plan

GREEN, YELLOW, RED = "green", "yellow", "red"
_REQUIREMENTS = pathlib.Path(__file__).parents[1] / "requirements.txt"
_LEAST_FREE_BYTES = 10e9  # three checkpoints of the paper's Atari run and its frames
_LEAST_MEMORY_BYTES = 4e9
# Prints what draws, and whether it draws the same twice; in a process of its own, since drivers abort.
_RENDER = """
import json, os
os.environ.setdefault("MUJOCO_GL", "egl")
from seer_jax.envs import dmc
import mujoco, numpy as np
pool = dmc.DmcEnv("cartpole-swingup", num_envs=1, seed=0, image_size=84, action_repeat=8, camera_id=0, training=True)
first = pool.reset().frame
context = mujoco.GLContext(84, 84)
context.make_current()
from OpenGL import GL
renderer = GL.glGetString(GL.GL_RENDERER).decode()
same = bool((first == pool._backend.render()).all())
print(json.dumps({"same": same, "seen": int(np.ptp(first)), "by": renderer}), flush=True)
os._exit(0)  # some drivers abort at a regular exit
"""


class Finding(NamedTuple):
    """A line of the report.

    Attributes:
      level: green, yellow (works, but) or red.
      subject: what was looked at.
      told: what was found.
      cure: a command or an act that makes it green.
    """

    level: str
    subject: str
    told: str
    cure: str = ""


def check_python() -> Iterable[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    level = GREEN if sys.version_info[:2] == (3, 11) else YELLOW if sys.version_info >= (3, 11) else RED
    yield Finding(level, "Python", version, "" if level == GREEN else "use Python 3.11, which the pins are for")


def check_packages() -> Iterable[Finding]:
    if not _REQUIREMENTS.exists():
        yield Finding(YELLOW, "packages", "no requirements.txt beside the package to compare with", "use a checkout")
        return
    pins = dict(
        line.split("==") for line in _REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")
    )
    differ = 0
    for name, pin in pins.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found != pin:
            differ += 1
            level = RED if found == "missing" else YELLOW
            yield Finding(level, name, f"{found}, pinned {pin}", f"pip install '{name}=={pin}'")
    if not differ:
        yield Finding(GREEN, "packages", f"all {len(pins)} as pinned")


def check_devices() -> Iterable[Finding]:
    devices = jax.devices()
    yield Finding(GREEN, "JAX devices", ", ".join(map(str, devices)))
    if jax.default_backend() == "cpu":
        option = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
        if option in os.environ.get("XLA_FLAGS", ""):
            yield Finding(GREEN, "CPU convolutions", "fast kernels are chosen")
        else:
            cure = f"import seer_jax before JAX starts, or export XLA_FLAGS={option} (for jaxlib 0.10.2)"
            yield Finding(YELLOW, "CPU convolutions", "slow kernels: XLA_FLAGS chooses others", cure)
    if shutil.which("nvidia-smi") and jax.default_backend() == "cpu":
        yield Finding(YELLOW, "GPU", "there is one, and JAX does not use it", "pip install 'jax[cuda12]==0.10.2'")


def check_atari() -> Iterable[Finding]:
    yield Finding(GREEN, "Atari games", f"{len(atari.games())} in EnvPool")
    starts = [_play_pong(seed) for seed in (0, 0, 1)]
    same, differ = np.array_equal(starts[0], starts[1]), not np.array_equal(starts[0], starts[2])
    level = GREEN if same and differ else RED
    told = "equal seeds play alike, others do not" if level == GREEN else "seeds do not decide how games are played"
    yield Finding(level, "Atari seeds", told, "" if level == GREEN else "pip install 'envpool==1.2.5'")


def _play_pong(seed: int) -> np.ndarray:
    env = atari.AtariEnv(
        "pong",
        num_envs=2,
        seed=seed,
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
    cure = "apt-get install libegl1 libgl1-mesa-dri, or the GPU vendor's driver; Atari needs none of it"
    try:
        drawn = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        yield Finding(YELLOW, "rendering (Control)", lines[-1][:200], cure)
        return
    if not drawn["same"] or not drawn["seen"]:
        told = "black" if not drawn["seen"] else "not twice the same"
        yield Finding(RED, "rendering (Control)", f"{drawn['by']}: pictures are {told}", cure)
        return
    software = "llvmpipe" in drawn["by"] or "softpipe" in drawn["by"]
    hint = "no GPU draws here: env.render_quality=fast draws several times as fast" if software else ""
    yield Finding(YELLOW if software else GREEN, "rendering (Control)", f"by {drawn['by']}, twice the same", hint)


def check_disk_and_memory() -> Iterable[Finding]:
    free = shutil.disk_usage(".").free
    enough = free >= _LEAST_FREE_BYTES
    cure = "" if enough else "free some, or put --run_dir on another disk: checkpoints hold the whole replay ring"
    yield Finding(GREEN if enough else YELLOW, "disk", f"{free / 1e9:,.1f} GB free here", cure)
    memory = plan.device_memory()
    enough = memory >= _LEAST_MEMORY_BYTES
    cure = "" if enough else "see with --plan what a run needs; the preset constrained needs little"
    yield Finding(GREEN if enough else YELLOW, "device memory", f"{memory / 1e9:,.1f} GB", cure)


def check_compile_cache() -> Iterable[Finding]:
    cli.use_compilation_cache()
    path = pathlib.Path(jax.config.jax_compilation_cache_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        cure = f"make {path} writable, or export JAX_COMPILATION_CACHE_DIR=DIR"
        yield Finding(YELLOW, "compiled programs", f"cannot be kept in {path}: {error.strerror}", cure)
        return
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    yield Finding(GREEN, "compiled programs", f"kept in {path} ({size / 1e6:,.0f} MB)")


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    check_python,
    check_packages,
    check_devices,
    check_atari,
    check_rendering,
    check_disk_and_memory,
    check_compile_cache,
)


def examine(checks: Iterable[Callable[[], Iterable[Finding]]] = CHECKS) -> list[Finding]:
    """Runs checks one after the other; one that fails itself is a red line."""
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
    for column in ("", "", "found", "cure"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        level = f"[{finding.level}]{finding.level}[/]"
        table.add_row(level, *(rich.markup.escape(text) for text in finding[1:]))
    rich.console.Console().print(table)
    return int(any(finding.level == RED for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
