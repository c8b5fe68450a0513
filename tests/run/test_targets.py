"""Plans for devices that are not there: what the command prints, writes and refuses."""

import dataclasses
import json
import os
import re
import sys

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from seer_jax import doctor, train
from seer_jax.envs import registry
from seer_jax.run import compiled, plan_output, target_plan, targets
from tests.helpers.compilers import lowest_effort
from tests.helpers.fake_env import FakeEnv
from tests.helpers.runs import only_error_line, tiny_config

HLO = """HloModule jit_learn, is_scheduled=true

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], /*index=1*/f32[4]{0}) parameter(0)
  %fusion.1 = f32[4]{0} fusion(%p), kind=kLoop, calls=%fused
  ROOT %tuple.1 = (s32[], f32[4]{0}) tuple(%p, %fusion.1)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %copy.1 = f32[4]{0} copy(%x)
  %sort.1 = (f32[4]{0}, s32[4]{0}) custom-call(%copy.1), custom_call_target="sort"
  %while.1 = (s32[], f32[4]{0}) while(%copy.1), condition=%test, body=%body, backend_config={KNOWN}
  ROOT %bitcast.1 = f32[4]{0} bitcast(%while.1)
}
"""


@pytest.fixture
def fake_env(monkeypatch):
    use_config(monkeypatch, tiny_config())


def use_config(monkeypatch, config):
    """Makes the command plan a tiny run."""
    monkeypatch.setattr(registry, "make_env", lambda config, **arguments: FakeEnv([7, 12], training=True))
    monkeypatch.setattr(train.cli, "loaded", lambda _: config)


def plan(*arguments):
    return train.main(["train", "--config=rainbow_atari:quick", "--plan", *arguments])


def test_launches_count_every_iteration_of_loops_of_known_length():
    assert compiled.launches(HLO.replace("KNOWN", '"known_trip_count":{"n":"5"}')) == 2 + 5
    assert compiled.launches(HLO.replace("KNOWN", "")) is None
    branch = HLO.replace("while(", "conditional(").replace("KNOWN", "")
    assert compiled.launches(branch) is None


@pytest.mark.parametrize("name", [name for name, target in targets.TARGETS.items() if target.platform == "tpu"])
def test_memory_of_a_tpu_is_what_its_compiler_lets_a_program_use(name):
    target = targets.TARGETS[name]
    with target.environment():
        place = SingleDeviceSharding(*target.devices())
        array = jax.ShapeDtypeStruct((2**31, 128), "uint8", sharding=place)
        with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as caught:
            jax.jit(lambda x: x + 1).lower(array).compile()
    available = re.search(r"available HBM \(([\d.]+)G\)", str(caught.value))
    assert float(available[1]) == pytest.approx(target.memory_bytes / 2**30, abs=0.02)


def test_plan_for_a_tpu_is_printed_and_written_with_the_same_figures(fake_env, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "150")
    assert plan("--target=tpu-v5e", f"--json={tmp_path / 'plan.json'}") == 0
    shown, error = capfd.readouterr()
    assert not [line for line in error.splitlines() if not line.startswith("train: ")]
    written = json.loads((tmp_path / "plan.json").read_text())
    assert (written["device"], written["fits"], list(written["phases"])) == ("tpu-v5e", True, ["full", "frozen"])
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    rows = {
        label.strip(): cells for label, *cells in (line.split("│")[1:-1] for line in shown.splitlines() if "│" in line)
    }
    for name, (label, show) in plan_output.FIGURES.items():
        values = [phase[name] for phase in written["phases"].values() if name in phase]
        if values:
            expected = ["unknown" if value is None else show(value) for value in values]
            assert [cell.strip() for cell in rows.pop(label)] == expected, label
    assert not rows
    full, frozen = written["phases"].values()
    assert full["learn_launches"] is None
    assert 0 < frozen["learn_flops"] < full["learn_flops"]
    assert full["device_bytes"] > full["replay_bytes"] + full["state_bytes"]
    seconds = full["interact_optimal_seconds"] / 2 + full["learn_optimal_seconds"] / 2  # 2 agent steps a call
    assert full["optimal_steps_per_second"] == pytest.approx(1 / seconds)


@pytest.fixture
def least_effort():
    """Compiles fast instead of well."""
    with lowest_effort():
        yield


@pytest.fixture
def mesh_target(request):
    target = targets.TARGETS[request.param]
    if target.missing:
        pytest.skip(f"no compiler for it: {target.missing}")
    return target


@pytest.mark.parametrize("mesh_target", ["tpu-v5e", "h100"], indirect=True)
def test_plan_for_a_mesh_of_targets_gives_the_figures_of_one_device(
    mesh_target, least_effort, monkeypatch, tmp_path, capsys
):
    plans, shown = {}, {}
    for name, changes in {
        "alone": {},
        "seeds": {"num_seeds": 4, "mesh__seed": 4},
        "both": {"num_seeds": 2, "mesh__seed": 2, "num_envs": 4, "mesh__data": 2},
    }.items():
        use_config(monkeypatch, tiny_config(seer__enabled=False, **changes))
        assert plan(f"--target={mesh_target.name}", f"--json={tmp_path / 'plan.json'}") == 0
        shown[name] = " ".join(capsys.readouterr().out.split())
        plans[name] = json.loads((tmp_path / "plan.json").read_text())
    alone, seeds, both = (plans[name]["phases"]["full"] for name in ("alone", "seeds", "both"))
    assert [each["num_devices"] for each in plans.values()] == [1, 4, 4]
    for name in ("seeds", "both"):
        assert f"4 devices, each {mesh_target.name}" in shown[name]
        assert "memory and costs of a program are those of one device, with 1 of the seeds" in shown[name]
    for name in ("replay_bytes", "state_bytes"):  # indices and padding aside
        assert seeds[name] == pytest.approx(alone[name], rel=0.05)
    assert both["replay_bytes"] == pytest.approx(alone["replay_bytes"] / 2, rel=0.1)
    if alone["learn_flops"] is not None:
        assert seeds["learn_flops"] == pytest.approx(alone["learn_flops"], rel=0.2)
        seconds = seeds["interact_optimal_seconds"] / 8 + seeds["learn_optimal_seconds"] / 8  # 4 seeds, 2 steps a call
        assert seeds["optimal_steps_per_second"] == pytest.approx(1 / seconds)


@pytest.mark.parametrize(("name", "most"), [("tpu-v5e", 256), ("tpu-v4", 256), ("h100", 256)])
def test_mesh_larger_than_the_target_is_refused_in_one_line_before_environments_start(name, most, monkeypatch, capsys):
    if targets.TARGETS[name].missing:
        pytest.skip("no compiler for it")
    use_config(monkeypatch, tiny_config(num_seeds=most, mesh__seed=most, num_envs=2, mesh__data=2))
    monkeypatch.setattr(registry, "make_env", None)
    assert plan(f"--target={name}") == 2
    message = f"mesh.seed and mesh.data need {2 * most} devices, and --target={name} plans for at most {most}; lower"
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_has_the_devices_of_the_meshes_that_it_plans_for(name):
    target = targets.TARGETS[name]
    if target.missing:
        pytest.skip(f"no compiler for it: {target.missing}")
    with target.environment():
        for count in (1, 3, 4, 8, 256):
            assert len({device.id for device in target.devices(count)}) == count


def test_plan_that_does_not_fit_the_target_is_refused_with_tables_and_file(fake_env, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        targets.TARGETS, "tpu-v5e", dataclasses.replace(targets.TARGETS["tpu-v5e"], memory_bytes=1_000_000)
    )
    assert plan("--target=tpu-v5e", f"--json={tmp_path / 'plan.json'}") == 2
    error = capsys.readouterr().err
    assert "of device memory and there are 0.0 GB; lower replay.capacity" in error.splitlines()[-1]
    assert "replay MB" in error
    assert json.loads((tmp_path / "plan.json").read_text())["fits"] is False


def test_program_that_the_compiler_finds_too_large_makes_the_phase_not_fit():
    cost = compiled.ProgramCost(1, 2, None, None, None, None)
    sizes = dict(
        phase="full", env_steps=1, replay_ratio=1.0, capacity=1, observation_bytes=1, ring_bytes=3, state_bytes=4
    )
    steps = {"interact": 1, "learn": 1}
    plan = target_plan.TargetPlan(**sizes, costs={"interact": cost, "learn": None}, steps_per_call=steps)
    assert not plan.fits(10**12)
    assert plan.figures()["learn_temporary_bytes"] is plan.figures()["device_bytes"] is None
    assert plan.optimal_steps_per_second is None
    plan = target_plan.TargetPlan(**sizes, costs={"interact": cost, "learn": cost}, steps_per_call=steps)
    assert plan.fits(9)
    assert not plan.fits(8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target=tpu-v5"], "train: --target=tpu-v5 is unknown; did you mean tpu-v5"),
        (["--target=abacus"], "train: --target=abacus is unknown; choose one of tpu-v4, tpu-v5e"),
        (["--json=DIR"], "DIR is not a file"),
        (["--json=DIR/none/plan.json"], "DIR/none/plan.json cannot be written (No such file or directory)"),
        (["--json=/dev/null"], "train: --json=/dev/null is not a file"),
        (["--noplan", "--target=h100"], "train: --target needs --plan"),
        (["--noplan", "--json=plan.json"], "train: --json needs --plan"),
    ],
)
def test_unusable_target_or_file_is_refused_in_one_line_before_any_work(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(registry, "make_env", None)
    arguments = [argument.replace("DIR", str(tmp_path)) for argument in arguments]
    plan_flag = [] if "--noplan" in arguments else ["--plan"]
    rest = [argument for argument in arguments if argument != "--noplan"]
    assert train.main(["train", "--config=rainbow_atari:quick", *plan_flag, *rest]) == 2
    assert message.replace("DIR", str(tmp_path)) in only_error_line(capsys)


@pytest.mark.parametrize(
    ("name", "modules", "extra"),
    [
        ("tpu-v5e", ["libtpu"], "tpu"),
        ("h100", ["jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13", "jax_plugins"], "cuda12"),
    ],
)
def test_missing_compiler_is_named_with_the_command_that_installs_it(name, modules, extra, monkeypatch, capsys):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    assert plan(f"--target={name}") == 2
    command = f"pip install 'jax[{extra}]=={jax.__version__}'"
    assert (
        only_error_line(capsys)
        == f"train: --target={name} needs the compiler of that device; install it with: {command}\n"
    )
    (found,) = doctor.check_targets()
    assert found.level == doctor.GREEN
    assert name not in found.message
    assert command in found.fix


def test_environment_is_as_before_after_a_target(monkeypatch):
    before, platforms = dict(os.environ), jax.config.jax_platforms
    target = targets.find("tpu-v5e")
    with target.environment():
        target.devices()
        assert os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    assert dict(os.environ) == before
    assert jax.config.jax_platforms == platforms
