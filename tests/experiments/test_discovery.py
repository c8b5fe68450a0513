"""Which runs the command of a report finds, which it leaves out, and where it cannot write."""

import json
import pathlib

import pytest

from experiments.report import __main__ as command
from experiments.report import discovery
from experiments.report.records import RecordsError
from tests.helpers.record_factories import MANIFEST, make_config, make_line, make_origin, make_records, write_run_dir

LINES = [make_line("eval", 100, 1.0), make_line("end", 100, 1.0)]


def write_damaged(directory: pathlib.Path, name: str, content: str | None) -> None:
    """Writes a run directory with one file that has another content, or is missing."""
    write_run_dir(directory, LINES)
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metrics.jsonl", '{"kind": "eval", "env_\n{"kind": "end"}\n', "line 1 of metrics.jsonl is not a record"),
        ("metrics.jsonl", '{"kind": "tr{"kind": "end"}\n', "line 1 of metrics.jsonl is not a record"),
        ("metrics.jsonl", '{"kind": "end"}\n[1]\n{"kind": "end"}\n', "line 2 of metrics.jsonl is not a record"),
        ("metrics.jsonl", '{"kind": "eval", "env_steps": 1}\n', "there is no 'frames'"),
        ("metrics.jsonl", None, "No such file"),
        ("config.json", None, "holds no config.json that can be read"),
        ("config.json", '{"env": ', "holds no config.json that can be read"),
        ("config.json", '{"agent": {"name": "rainbow"}, "seer": {"enabled": true}}', "there is no 'env'"),
        ("config.json", '{"agent": 3}', "is a damaged run"),
        ("manifest.json", None, "No such file"),
        ("manifest.json", "{}", "there is no 'packages'"),
        ("manifest.json", "\x00\xff", "is a damaged run"),
        ("manifest.json", json.dumps({**MANIFEST, "fork": {"env_steps": 100}}), "there is no 'trunk'"),
        ("manifest.json", json.dumps({**MANIFEST, "fork": {"trunk": "a"}}), "there is no 'env_steps'"),
        ("manifest.json", json.dumps({**MANIFEST, "fork": make_origin("a", 1) | {"env_steps": "1"}}), "its fork is"),
        ("manifest.json", json.dumps({**MANIFEST, "fork": make_origin("a", 1) | {"trunk": 3}}), "its fork is"),
        ("manifest.json", json.dumps({**MANIFEST, "fork": None}), "is a damaged run"),
    ],
)
def test_damaged_run_is_left_out_with_one_line_and_alone_is_refused(tmp_path, capsys, name, content, reason):
    write_run_dir(tmp_path / "good", LINES)
    write_damaged(tmp_path / "bad", name, content)
    out = tmp_path / "page.html"
    assert command.main(["report", str(tmp_path / "bad"), str(tmp_path / "good"), f"--out={out}"]) == 0
    error = capsys.readouterr().err
    assert error.startswith(f"report: skipped: {tmp_path / 'bad'} is a damaged run (")
    assert reason in error
    assert error.count("\n") == 1
    assert "<td>good</td>" in out.read_text()
    out.unlink()
    assert command.main(["report", str(tmp_path / "bad"), f"--out={out}"]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "report: no run is left to show; name run directories, directories of runs, or files of records"
    ]
    assert not out.exists()


def test_directory_of_a_sweep_stands_for_its_runs_at_any_depth_and_each_is_read_once(tmp_path, capsys):
    runs = tmp_path / "sweep" / "runs"
    for seed in (1, 0):
        write_run_dir(runs / f"a-s{seed}", LINES, make_config(seed=seed))
        (runs / f"a-s{seed}.log").write_text("phase full\n")
    (runs / "a-s0" / "params").mkdir()
    (runs / "a-s0" / "params" / "config.json").write_text("{}")  # a run directory is not searched
    expected = [runs / "a-s0", runs / "a-s1"]
    assert list(discovery.read_all([tmp_path])) == expected
    assert list(discovery.read_all([tmp_path / "sweep", runs / "a-s1", runs / "a-s0"])) == expected
    assert capsys.readouterr().err == ""


def test_log_files_that_a_glob_names_are_left_out_with_one_line_each(tmp_path, capsys):
    write_run_dir(tmp_path / "a", LINES)
    (tmp_path / "a.log").write_text("phase full\n")
    (tmp_path / "b.mp4").write_bytes(bytes(range(256)))
    (tmp_path / "c").mkdir()
    assert list(discovery.read_all(sorted(tmp_path.iterdir()))) == [tmp_path / "a"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == [str(tmp_path / name) for name in ("c", "a.log", "b.mp4")]
    assert lines[1].endswith("is neither a run directory nor a file of records (there is no 'config')")


def test_directory_without_runs_stands_for_its_files_of_records(tmp_path):
    for seed in (0, 1):
        make_records("A", {100: 1.0}, seed=seed).save(tmp_path / "kept" / f"s{seed}.jsonl")
    assert [run.seed for run in discovery.read_all([tmp_path / "kept"]).values()] == [0, 1]


def test_path_that_does_not_exist_raises(tmp_path):
    write_run_dir(tmp_path / "a", LINES)
    with pytest.raises(RecordsError, match="neither a run directory nor a file of records: it does not exist"):
        discovery.read_all([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("out", ["file/page.html", "/proc/nothing/page.html", "/proc/page.html"])
def test_page_that_cannot_be_written_is_refused_in_one_line(tmp_path, capsys, out):
    write_run_dir(tmp_path / "run", LINES)
    (tmp_path / "file").touch()
    assert command.main(["report", str(tmp_path / "run"), f"--out={tmp_path / out}"]) == 2
    error = capsys.readouterr().err
    assert f"--out={tmp_path / out} cannot be written: " in error
    assert error.count("\n") == 1


def test_run_of_several_seeds_stands_for_its_seeds_which_form_one_arm(tmp_path, capsys):
    group = tmp_path / "parent" / "three"
    for seed in (4, 5, 6):
        write_run_dir(group / f"seed-{seed}", LINES, make_config(seed=seed))
    config = json.loads((group / "seed-4" / "config.json").read_text())
    (group / "config.json").write_text(json.dumps(config | {"num_seeds": 3}))
    for path in (group, tmp_path / "parent", group / "seed-5"):
        found = discovery.read_all([path])
        seeds = [5] if path.name == "seed-5" else [4, 5, 6]
        assert [(run.name, run.seed) for run in found.values()] == [(f"three/seed-{seed}", seed) for seed in seeds]
        assert len({run.arm for run in command.label_arms([*found.values()])}) == 1
    assert command.main(["report", str(group), f"--out={tmp_path / 'page.html'}"]) == 0
    assert "<td>three/seed-6</td>" in (tmp_path / "page.html").read_text()
    assert capsys.readouterr().err == ""
