"""What importing the package sets, what is installed of it, and what its pages say of it."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import seer_jax
from docs import results
from seer_jax import cli, doctor, evaluate, train
from seer_jax.run import run_dir as run_dir_lib
from tests.helpers import runs

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHIPPED = ("curl_dmc", "curl_haiku", "rainbow_atari")
OPTION = "--xla_cpu_experimental_ynn_fusion_type"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without network from a copy of the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, source, ignore=unwanted, symlinks=True, dirs_exist_ok=True)
    pip("wheel", "--no-build-isolation", f"--wheel-dir={out}", str(source))
    (path,) = out.iterdir()
    return path


def pip(*arguments):
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def requirements(lines):
    """Returns those of this Python, by canonical name."""
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in parsed if r.marker is None or r.marker.evaluate()}


def test_wheel_holds_the_package_with_its_configurations_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith(f"seer_jax-{seer_jax.__version__}-py3-none-any")
    assert {name.split("/")[0] for name in names} == {"seer_jax", f"seer_jax-{seer_jax.__version__}.dist-info"}
    assert {f"seer_jax/configs/{name}.py" for name in SHIPPED} < set(names)
    assert "seer_jax/py.typed" in names
    assert f"seer_jax-{seer_jax.__version__}.dist-info/licenses/LICENSE" in names


def test_installed_commands_train_and_evaluate_outside_of_the_checkout(wheel, tmp_path):
    pip("install", f"--target={tmp_path / 'site'}", str(wheel))
    here = tmp_path / "elsewhere"
    here.mkdir()

    def run(command, *arguments):
        environ = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
        command = [str(tmp_path / "site" / "bin" / command), *arguments]
        done = subprocess.run(command, cwd=here, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    fields = {
        "total_steps": 60,
        "learn_start": 10,
        "num_envs": 2,
        "log_every": 20,
        "eval_every": 60,
        "eval_episodes": 2,
        "checkpoint_every": 0,
        "env.image_size": 42,
        "env.crop_size": 42,
        "env.max_episode_steps": 40,
        "agent.n_step": 3,
        "agent.hidden": 8,
        "agent.batch_size": 4,
        "seer.freeze_step": 30,
    }
    arguments = ["--config=rainbow_atari:quick", *(f"--config.{name}={value}" for name, value in fields.items())]
    run("seer-train", *arguments, "--run_dir=run")
    assert runs.records(here / "run")[-1]["env_steps"] == 60
    manifest = json.loads((here / "run" / "manifest.json").read_text())
    assert manifest["arguments"] == arguments
    assert manifest["git_commit"] is None  # that of the checkout, were its package the one that ran
    assert "krull after 60 agent steps" in run("seer-evaluate", "--run_dir=run")


@pytest.mark.parametrize("name", SHIPPED)
def test_name_of_a_shipped_configuration_gives_what_its_path_gives(name, monkeypatch, tmp_path):
    by_path = cli.read_config([f"--config=configs/{name}.py:quick", "--config.seed=3"])
    monkeypatch.chdir(tmp_path)
    assert cli.read_config([f"--config={name}:quick", "--config.seed=3"]).to_dict() == by_path.to_dict()
    assert by_path.seed == 3


def test_unknown_name_of_a_configuration_is_answered_with_the_shipped_names(tmp_path, capsys):
    assert train.main(["seer-train", "--config=rainbow_atary:quick", f"--run_dir={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err == (
        "seer-train: --config=rainbow_atary is neither the path of a file (FILE.py) nor a shipped configuration:"
        f" {', '.join(SHIPPED)}\n"
    )


def test_shipped_configurations_load_where_no_module_is_named_configs(tmp_path):
    code = "import seer_jax.configs.curl_haiku, sys; assert 'configs' not in sys.modules"
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "seer_jax").symlink_to(ROOT / "seer_jax")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, check=True)


@pytest.mark.parametrize("module", ["seer_jax.configs.curl_haiku", "configs.curl_haiku"])
def test_shipped_haiku_encoder_needs_no_trust_by_its_name_of_today_and_of_old_runs(module):
    config = cli.read_config(["--config=curl_haiku:quick"])
    config.encoder.name = f"haiku:{module}:encoder"
    assert run_dir_lib.foreign_code(config, trusted=None) is None
    config.encoder.name = "haiku:mine.curl_haiku:encoder"
    assert run_dir_lib.foreign_code(config, trusted=None) == "encoder.name=haiku:mine.curl_haiku:encoder"


@pytest.mark.parametrize("command", [train, evaluate, doctor])
def test_console_commands_read_the_command_line_of_the_process(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seer-command", "--nothing"])
    assert command.main() == 2
    assert capsys.readouterr().err.startswith("seer-command: ")


def test_version_is_the_same_everywhere():
    assert f"\nversion: {seer_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == seer_jax.__version__


def test_everything_that_the_package_imports_is_a_declared_dependency():
    modules = set()
    for path in [*ROOT.glob("seer_jax/**/*.py"), *ROOT.glob("configs/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    providers = importlib.metadata.packages_distributions()
    foreign = modules - sys.stdlib_module_names - {"seer_jax"}
    declared = requirements(PROJECT["dependencies"])
    assert "jax" in foreign
    missing = {m for m in foreign if not any(canonicalize_name(d) in declared for d in providers.get(m, [m]))}
    # EnvPool depends on its assets; Python 3.13 does without the official package.
    assert missing <= {"envpool_assets"} | ({"dm_control"} if sys.version_info >= (3, 13) else set())


LAYERS = (
    ("fields", "files", "flops", "output", "platforms", "status"),
    ("config", "networks"),
    ("replay", "envs"),
    ("agents",),
    ("analysis",),
    ("seer",),
    ("run",),
    ("cli",),
    ("train", "evaluate", "doctor"),
)


def test_imports_of_the_package_point_to_lower_layers_only():
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    files = [path for path in (ROOT / "seer_jax").rglob("*.py") if "configs" not in path.parts]
    imported = set()
    for path in files:
        owner = path.relative_to(ROOT / "seer_jax").with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("seer_jax"):
                continue
            _, *package = node.module.split(".")
            for name in [package[0]] if package else [alias.name for alias in node.names]:
                if name in level and name != owner:
                    imported.add((owner, name))
                    assert level[name] < level[owner], f"{path.name} of {owner} imports {name}"
    assert ("run", "seer") in imported  # the test sees imports
    assert {path.relative_to(ROOT / "seer_jax").with_suffix("").parts[0] for path in files} == {*level, "__init__"}


def test_versions_that_are_tested_together_lie_within_the_ranges_of_the_package():
    ranges = requirements(PROJECT["dependencies"])
    for extra in ("experiments", "ray", "dev"):
        declared = requirements(PROJECT["optional-dependencies"][extra])
        ranges |= {name: requirement for name, requirement in declared.items() if name != "seer-jax"}
    lines = [line for path in ROOT.glob("requirements*.txt") for line in path.read_text().splitlines()]
    pins = [Requirement(line) for line in lines if re.match(r"\w", line)]
    assert len(ranges) > 20
    for pin in pins:  # one for each range of versions of Python
        (exact,) = pin.specifier
        name = canonicalize_name(pin.name)
        assert name not in ranges or ranges[name].specifier.contains(exact.version), name
    assert ranges.keys() <= {canonicalize_name(pin.name) for pin in pins}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{OPTION}=-individual_convolution"),
        ("--xla_cpu_enable_fast_math=false", f"--xla_cpu_enable_fast_math=false {OPTION}=-individual_convolution"),
        (f"{OPTION}=", f"{OPTION}="),
    ],
)
def test_the_option_for_fast_convolutions_is_added_to_the_users(before, after):
    code = "import os, seer_jax, jax; jax.devices(); print(os.environ['XLA_FLAGS'])"
    environ = os.environ | {"XLA_FLAGS": before}
    out = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == after


def test_tables_of_results_are_those_of_the_records():
    assert results.PAGE.read_text() == results.text()
    for value in ("env.resize=area", "env.first_stack=black", "agent.double_contrastive_step=False"):
        assert f"`{value}`" in results.text()  # of all records so far
    for page in results.PAGES_WITH_TABLES:
        assert results.with_tables(page.read_text()) == page.read_text()
        assert page.read_text().count("| ---: |") >= 1


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *results.PAGE.parent.glob("*.md")]), ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert all((page.parent / link).exists() for link in links), links
