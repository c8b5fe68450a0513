"""The report of the doctor, on this machine and with forced faults."""

import importlib.metadata

import jax
import pytest

from seer_jax import doctor, envs


def levels(findings):
    return {finding.subject: finding.level for finding in findings}


def test_machine_of_the_tests_can_run_atari():
    found = doctor.examine([check for check in doctor.CHECKS if check is not doctor.check_rendering])
    assert levels(found)["Atari seeds"] == levels(found)["Atari games"] == levels(found)["JAX devices"] == "green"
    assert all(finding.fix for finding in found if finding.level != "green")


@pytest.mark.skipif(not envs.HAS_EGL, reason="no EGL to render with")
def test_rendering_names_the_renderer():
    (found,) = doctor.check_rendering()
    assert found.level in ("green", "yellow")
    assert found.message.endswith(", the same image twice")


def test_driver_that_aborts_is_reported_with_a_fix(monkeypatch):
    monkeypatch.setattr(doctor, "_RENDER", "import os, sys; print('no display', file=sys.stderr); os.abort()")
    (found,) = doctor.check_rendering()
    assert (found.level, found.message) == ("yellow", "no display")
    assert "apt-get install" in found.fix


def test_packages_that_differ_or_are_missing_are_reported_with_the_command(monkeypatch, tmp_path):
    pins = tmp_path / "requirements.txt"
    monkeypatch.setattr(doctor, "_REQUIREMENTS", pins)
    jax_version = importlib.metadata.version("jax")
    other_python = 'rich==0.1; python_version < "3.11"\n'
    pins.write_text(f"# pins\njax=={jax_version}\nnumpy==0.1\nnothing-such==2.0\n{other_python}")
    found = list(doctor.check_packages())
    assert levels(found) == {"numpy": "yellow", "nothing-such": "red"}
    assert [finding.fix for finding in found] == ["pip install 'numpy==0.1'", "pip install 'nothing-such==2.0'"]


def test_installed_package_is_compared_with_its_ranges(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_REQUIREMENTS", tmp_path / "missing.txt")
    ranges = ["jax>=0.1", "numpy<1", 'nothing-such; extra == "ray"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ranges)
    (found,) = doctor.check_packages()
    assert (found.subject, found.level, found.fix) == ("numpy", "yellow", "pip install 'numpy<1'")


def test_red_finding_gives_exit_code_1_and_a_failing_check_is_red(monkeypatch, capsys):
    def check_the_moon():
        raise RuntimeError("not there")

    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("red", "the moon", "not there")])
    assert doctor.main(["doctor"]) == 1
    assert "not there" in capsys.readouterr().out
    monkeypatch.undo()
    (found,) = doctor.examine([check_the_moon])
    assert found == doctor.Finding("red", "the moon", "RuntimeError: not there")
    assert doctor.main(["doctor", "--moon"]) == 2


def test_cache_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file" / "cache"))
    try:
        (found,) = doctor.check_compile_cache()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found.level == "yellow"
    assert "JAX_COMPILATION_CACHE_DIR" in found.fix
