"""The command that trains: its arguments, its errors in one line, and its signals; `run/test_loop.py` has runs."""

import json
import pathlib
import signal

import pytest
from ml_collections import ConfigDict

from configs import rainbow_atari
from seer_jax import cli, envs, train
from seer_jax.envs import dmc
from seer_jax.run import resolve as resolve_lib
from seer_jax.run import run_dir as run_dir_lib
from seer_jax.run.loop import Loop
from seer_jax.run.resolve import resolve
from tests.helpers import fake_env
from tests.helpers.runs import compiled_once, only_error_line, records, tiny_config

CONFIG = "--config=configs/rainbow_atari.py"
CURL = "--config=configs/curl_dmc.py"
BAD_COMMANDS = [
    ([], "--config=FILE is missing"),
    (["--config=configs/nothing.py"], "configs/nothing.py"),
    (
        [f"{CONFIG}:huge"],
        "preset 'huge' is unknown; choose one of paper, baseline, constrained, constrained_impoola, quick",
    ),
    (["--config=configs/curl_dmc.py:paper,walk"], "task 'walk' has no preset"),
    (["--config=pyproject.toml"], "pyproject.toml"),
    ([CONFIG, "--config.seed=abc"], "seed"),
    ([CONFIG, "--config.seer.enabled=maybe"], "maybe"),
    ([CONFIG, "--nothing"], "nothing"),
    ([CONFIG, "extra"], "unexpected argument 'extra'"),
    ([CONFIG, "--config.env.task=pingpong"], "did you mean"),
    ([CONFIG, "--config.env.task=Ponk-v5"], "env.task='Ponk-v5' is no Atari game of EnvPool; "),
    ([CONFIG, "--config.total_steps=1.5e0"], "total_steps"),
    ([CONFIG, "--config.total_steps=1e300"], "total_steps"),
    (["--resume"], "holds no config.json"),
]
HOST_FLAGS = [
    (["--num_processes=2"], "--num_processes needs --coordinator=HOST:PORT, the address of process 0"),
    (["--process_id=0"], "--process_id needs --coordinator=HOST:PORT, the address of process 0"),
    (["--coordinator=a:1", "--plan"], "--plan plans for one host; leave out --coordinator"),
    (["--coordinator=auto", "--process_id=0"], "--coordinator=auto finds out --process_id itself; leave it out"),
    (["--coordinator=a"], "--coordinator=a is neither HOST:PORT nor auto"),
    (["--coordinator=a:http"], "--coordinator=a:http is neither HOST:PORT nor auto"),
    (["--coordinator=:1"], "--coordinator=:1 is neither HOST:PORT nor auto"),
    (
        ["--coordinator=a:1", "--num_processes=2"],
        "--coordinator=HOST:PORT needs both --num_processes=P and --process_id=I",
    ),
    (
        ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
        "--process_id=2 is not one of 0 to 1, the numbers of --num_processes=2",
    ),
]
TYPING_SLIPS = [
    (
        [CONFIG, "--config.seer.freeze_step=1"],
        "seer.freeze_step=1 is not past learn_start=1600: an untrained encoder would freeze; raise it to at least 1602,"
        " or set it to 0 with seer.init_from=RUN_DIR",
    ),
    (
        [CONFIG, "--config.freeze_step=1"],
        "--config.freeze_step: there is no field freeze_step; did you mean seer.freeze_step?",
    ),
    (
        [CONFIG, "--config.nothing=1"],
        "--config.nothing: there is no field nothing; docs/configuration.md lists all fields",
    ),
    (
        [CONFIG, "--config.seer.freeze_stp", "1"],
        "--config.seer.freeze_stp: there is no field seer.freeze_stp; did you mean seer.freeze_step?",
    ),
    (
        [CONFIG, "--config.agent.critic_tau=0.5"],
        "--config.agent.critic_tau: there is no field agent.critic_tau; docs/configuration.md lists all fields",
    ),
    (
        [CURL, "--config.agent.actor_update_every=4"],
        "--config.agent.actor_update_every: agent.actor_update_every is called agent.updates_per_actor_update now",
    ),
    (
        [CURL, "--config.agent.target_update_every=4"],
        "--config.agent.target_update_every: agent.target_update_every is called agent.updates_per_target_update now",
    ),
    (
        [CONFIG, "--config.agent.name=curl_sac"],
        "agent.name=curl_sac needs continuous actions, and those of env.suite=atari are discrete; use rainbow",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_COMMANDS, ids=lambda value: str(value)[:40])
def test_bad_command_ends_in_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert train.main(["train", f"--run_dir={run_dir}", *arguments]) == 2
    error = only_error_line(capsys)
    assert error.startswith("train: ")
    assert message in error
    assert not run_dir.exists()


@pytest.mark.parametrize(("arguments", "message"), HOST_FLAGS, ids=[" ".join(flags) for flags, _ in HOST_FLAGS])
def test_flags_of_several_hosts_that_do_not_go_together_are_refused(arguments, message, tmp_path, capsys):
    assert train.main(["train", CONFIG, f"--run_dir={tmp_path / 'run'}", *arguments]) == 2
    assert only_error_line(capsys) == f"train: {message}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("arguments", "message"), TYPING_SLIPS, ids=[" ".join(slip[1:]) for slip, _ in TYPING_SLIPS])
def test_typing_slip_ends_in_one_sentence_that_names_the_field(arguments, message, tmp_path, capsys):
    assert train.main(["train", f"--run_dir={tmp_path / 'run'}", *arguments]) == 2
    assert only_error_line(capsys) == f"train: {message}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "game"),
    [
        ("PongNoFrameskip-v4", "pong"),
        ("ALE/Pong-v5", "pong"),
        ("Pong-v5", "pong"),
        ("Pong", "pong"),
        ("MsPacmanDeterministic-v4", "ms_pacman"),
    ],
)
def test_usual_names_of_a_game_are_understood(task, game, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "run", lambda config, run_dir, **kwargs: seen.append((config.env.task, run_dir)))
    assert train.main(["train", CONFIG, f"--config.env.task={task}"]) == 0
    assert seen[0][0] == game
    assert seen[0][1].startswith(f"runs/{game}-rainbow-s0-")
    assert not pathlib.Path(seen[0][1]).exists()  # nothing was written into it


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def get_config(:", "SyntaxError"),
        ("import nothing_at_all", "nothing_at_all"),
        ("def get_config(): return {}", "it must give a ConfigDict"),
        ("def get_config(): raise RuntimeError('no luck')", "no luck"),
        ("from ml_collections import ConfigDict\ndef get_config(): return ConfigDict(dict(seed=1))", "missing"),
    ],
)
def test_bad_configuration_file_ends_in_one_line(source, message, tmp_path, capsys):
    (tmp_path / "bad.py").write_text(source)
    assert train.main(["train", f"--config={tmp_path / 'bad.py'}", f"--run_dir={tmp_path / 'run'}"]) == 2
    assert message in only_error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_existing_run_is_not_touched(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert train.main(["train", CONFIG, f"--run_dir={tmp_path}"]) == 2
    assert "name a new directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_help_exits_with_0(capsys):
    assert train.main(["train", "--help"]) == 0
    assert "--config" in capsys.readouterr().out


def test_whole_numbers_may_have_an_exponent(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "run", lambda config, run_dir, **kwargs: seen.append(config))
    arguments = ["--config.total_steps=6e5", "--config.replay.capacity=2.5e5", "--config.agent.learning_rate=1e-3"]
    assert train.main(["train", CONFIG, f"--run_dir={tmp_path / 'run'}", *arguments]) == 0
    assert (seen[0].total_steps, seen[0].replay.capacity, seen[0].agent.learning_rate) == (600_000, 250_000, 1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no config.json"),
        ("", "can be read"),
        ("{", "can be read"),
        ("[1]", "can be read"),
        ('{"seed": 1}', "is missing"),
        ('{"encoder": {"name": "haiku:os:getcwd"}}', "if you trust it"),
    ],
)
def test_directory_that_holds_no_run_cannot_be_resumed(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert train.main(["train", "--resume", f"--run_dir={tmp_path}"]) == 2
    assert message in only_error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"] * (content is not None)


def test_resume_without_a_directory_is_refused(capsys):
    assert train.main(["train", "--resume", CONFIG]) == 2
    assert "--resume needs --run_dir" in capsys.readouterr().err


def test_directory_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main(["train", CONFIG, f"--run_dir={tmp_path / 'file' / 'run'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run_dir", "message"),
    [
        ("", "--run_dir is empty; give it a value"),
        ("two\nlines", r"run_dir='two\nlines' holds a character that cannot be printed; name another"),
        ("bytes\udcff", r"run_dir='bytes\udcff' holds a character that cannot be printed; name another"),
        ("file", "run_dir={here}/file is not a directory; name another"),
        ("file/run", "run_dir={here}/file/run cannot be written: Not a directory; name another"),
        ("/dev/full", "run_dir=/dev/full is not a directory; name another"),
        ("/dev/full/run", "run_dir=/dev/full/run cannot be written: Not a directory; name another"),
        ("dangling", "run_dir={here}/dangling cannot be written: File exists; name another"),
        ("x" * 300, f"run_dir={{here}}/{'x' * 300} cannot be written: File name too long; name another"),
        ("/proc/run", "run_dir=/proc/run cannot be written: No such file or directory; name another"),
    ],
    ids=lambda value: ascii(value)[:20],
)
@pytest.mark.parametrize("arguments", [[f"{CONFIG}:quick"], [f"{CONFIG}:quick", "--resume"], ["--resume"]], ids=len)
def test_impossible_directory_is_refused_in_one_line(tmp_path, monkeypatch, capsys, run_dir, message, arguments):
    arguments = [each.replace("configs", str(pathlib.Path("configs").absolute())) for each in arguments]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert train.main(["train", f"--run_dir={run_dir}", *arguments]) == 2
    error = only_error_line(capsys)
    if "holds no config.json" not in error or arguments != ["--resume"]:
        assert error == f"train: {message.format(here=tmp_path)}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


def test_working_directory_that_is_gone_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    config = pathlib.Path("configs/rainbow_atari.py").absolute()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    assert train.main(["train", f"--config={config}:quick", "--run_dir=run"]) == 2
    assert "run_dir=run is relative to a working directory that is gone" in only_error_line(capsys)


def test_refused_run_without_run_dir_leaves_no_directory(tmp_path, monkeypatch, capsys):
    config = pathlib.Path("configs/rainbow_atari.py").absolute()
    monkeypatch.chdir(tmp_path)
    assert train.main(["train", f"--config={config}:quick", "--config.seer.init_from=nowhere"]) == 2
    assert "nowhere" in only_error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_machine_without_egl_is_refused_before_anything_starts(monkeypatch, tmp_path, capsys):
    dmc.require_rendering.cache_clear()
    monkeypatch.setattr(envs, "HAS_EGL", False)
    assert train.main(["train", CURL, f"--run_dir={tmp_path / 'run'}"]) == 2
    assert "apt-get install libegl1" in only_error_line(capsys)
    assert not (tmp_path / "run").exists()
    dmc.require_rendering.cache_clear()


def test_run_from_python_accepts_resolved_and_unresolved_configurations(fake_envs, tmp_path, monkeypatch):
    monkeypatch.setattr(Loop, "train", lambda loop, stop: {"kind": "end", "config": loop._config})
    config = tiny_config()
    unresolved = train.run(config, tmp_path / "unresolved")
    resolved = train.run(resolve(config), str(tmp_path / "resolved"))
    assert unresolved == resolved
    written = [(tmp_path / name / "config.json").read_text() for name in ("unresolved", "resolved")]
    assert written[0] == written[1]


def test_run_from_python_refuses_unknown_fields_and_fills_missing_ones(fake_envs, tmp_path, monkeypatch):
    monkeypatch.setattr(Loop, "train", lambda loop, stop: {"kind": "end"})
    given = tiny_config().to_dict()
    with pytest.raises(resolve_lib.ConfigError, match=r"there is no field seer\.freeze_stp; did you mean"):
        train.run(ConfigDict(given | {"seer": given["seer"] | {"freeze_stp": 3}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    del given["on_nan"], given["agent"]["eval_epsilon"]
    train.run(ConfigDict(given), tmp_path / "run")
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (written["on_nan"], written["agent"]["eval_epsilon"]) == ("stop", 0.001)
    assert written == resolve(tiny_config()).to_dict()


@pytest.fixture
def one_compilation():
    with compiled_once():
        yield


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_writes_a_checkpoint_and_prints_how_to_continue(
    fake_envs, one_compilation, tmp_path, monkeypatch, capsys, number, code
):
    real_step, calls = fake_env.FakeEnv.step, []

    def step(self, action):
        calls.append(1)
        if len(calls) == 60:
            signal.raise_signal(number)
        return real_step(self, action)

    config = tiny_config(seer__enabled=False, total_steps=160)
    monkeypatch.setattr(fake_env.FakeEnv, "step", step)
    monkeypatch.setattr(resolve_lib, "resolve", lambda _, real=resolve_lib.resolve: real(config))
    run_dir = tmp_path / "run"
    where = [f"--run_dir={run_dir}"]
    assert train.main(["train", "--config", "configs/rainbow_atari.py:quick", "--config.seed=3", *where]) == code
    assert f"train: stopped; continue with --run_dir={run_dir} --resume" in capsys.readouterr().err
    arguments = run_dir_lib.read_manifest(run_dir)["arguments"]
    assert arguments == ["--config=configs/rainbow_atari.py:quick", "--config.seed=3"]
    assert records(run_dir)[-1]["kind"] == "checkpoint"
    assert all(env.closed for env in fake_envs)
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    assert train.main(["train", "--resume", *where]) == 0
    assert records(run_dir)[-1]["kind"] == "end"
    assert records(run_dir)[-1]["env_steps"] >= 160


def test_second_signal_ends_the_process_at_once():
    with cli.signals() as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_hangups_after_the_first_signal_do_not_end_the_process():
    before = signal.getsignal(signal.SIGHUP)
    with cli.signals() as received:
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
        assert received == [signal.SIGHUP]
    assert signal.getsignal(signal.SIGHUP) == before


def test_plan_prints_costs_and_starts_nothing(fake_envs, tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(train.plan, "show", lambda config, json_file: shown.append(config))
    assert train.main(["train", f"{CONFIG}:quick", "--plan", f"--run_dir={tmp_path / 'run'}"]) == 0
    assert shown == [resolve(rainbow_atari.get_config("quick"))]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("there", "given", "found"), [("auto", "20000", 20_000), (20_000, "auto", "auto")])
def test_flags_replace_a_number_of_a_stored_configuration_by_a_word_and_back(there, given, found):
    stored = tiny_config(seer__freeze_step=there).to_dict()
    assert cli.override(ConfigDict(stored), [f"--config.seer.freeze_step={given}"]).seer.freeze_step == found
