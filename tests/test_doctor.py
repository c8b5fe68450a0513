"""The doctor's lines, where all is well and where it is not."""

import importlib.metadata

import jax
import pytest

from seer_jax import doctor, envs


def levels(findings):
    return {finding.subject: finding.level for finding in findings}


def test_this_machine_can_run_atari(capsys):
    found = doctor.examine([c for c in doctor.CHECKS if c is not doctor.check_rendering])
    assert levels(found)["Atari seeds"] == levels(found)["Atari games"] == levels(found)["JAX devices"] == "green"
    assert all(finding.cure for finding in found if finding.level != "green")


@pytest.mark.skipif(not envs.HAS_EGL, reason="no EGL to render with")
def test_rendering_names_what_draws():
    (found,) = doctor.check_rendering()
    assert found.level in ("green", "yellow")
    assert "twice the same" in found.told


def test_a_driver_that_aborts_is_a_line_with_a_cure(monkeypatch):
    monkeypatch.setattr(doctor, "_RENDER", "import os, sys; print('no display', file=sys.stderr); os.abort()")
    (found,) = doctor.check_rendering()
    assert (found.level, found.told) == ("yellow", "no display")
    assert "apt-get install" in found.cure


def test_packages_that_differ_or_miss_come_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_REQUIREMENTS", tmp_path / "requirements.txt")
    jax_version = importlib.metadata.version("jax")
    (tmp_path / "requirements.txt").write_text(f"# pins\njax=={jax_version}\nnumpy==0.1\nnothing-such==2.0\n")
    found = list(doctor.check_packages())
    assert levels(found) == {"numpy": "yellow", "nothing-such": "red"}
    assert [finding.cure for finding in found] == ["pip install 'numpy==0.1'", "pip install 'nothing-such==2.0'"]


def test_a_red_line_is_the_exit_code_and_a_broken_check_is_red(monkeypatch, capsys):
    def check_the_moon():
        raise RuntimeError("not there")

    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("red", "the moon", "not there")])
    assert doctor.main(["doctor"]) == 1
    assert "not there" in capsys.readouterr().out
    monkeypatch.undo()
    (found,) = doctor.examine([check_the_moon])
    assert found == doctor.Finding("red", "the moon", "RuntimeError: not there")
    assert doctor.main(["doctor", "--moon"]) == 2


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file" / "cache"))
    try:
        (found,) = doctor.check_compile_cache()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found.level == "yellow"
    assert "JAX_COMPILATION_CACHE_DIR" in found.cure
