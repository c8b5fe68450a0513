"""Transfer: an encoder from another run, frozen from the first row or trained on."""

import json

import jax
import numpy as np
import pytest

from seer_jax import evaluate, files, train
from seer_jax.envs import registry
from seer_jax.run import assembly, checkpoint, transfer
from seer_jax.run.loop import Loop
from seer_jax.run.resolve import ConfigError, resolve
from seer_jax.seer.phases import Phase
from tests.helpers.fake_env import FakeEnv
from tests.helpers.runs import records, tiny_config, write_run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The directory of a run with three actions that is split after its first stage; its parameters are new."""
    directory = tmp_path_factory.mktemp("source") / "run"
    config = tiny_config(seer__freeze_through="conv1", replay__allow_more_memory=True)
    parts = assembly.assemble(resolve(config), make_env(3)(resolve(config), training=True).action_spec)
    state = jax.jit(parts.agent.init)(jax.random.PRNGKey(7))
    write_run(directory, config, params=jax.device_get(state.params))
    return directory


def make_env(num_actions):
    def make(config, *, training, pools=(0,)):
        lengths = [7, 12, 5, 9][: config.num_envs if training else config.eval_episodes]
        return FakeEnv(lengths, training=training, num_actions=num_actions, pool=pools[0])

    return make


def encoder_stages(params):
    return params["encoder"] | params["tail"]


def saved_params(run_dir):
    return checkpoint.load_newest_state(run_dir / "checkpoints")[0]["train"]["params"]


def test_encoder_frozen_from_the_first_step_fills_the_ring_with_latents(source, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make_env", make_env(num_actions=5))
    compiled, compile_phase = [], Phase.compile

    def counted(phase):
        compiled.append((phase.name, phase.row.observation.shape, phase.ring_spec.num_steps))
        return compile_phase(phase)

    monkeypatch.setattr(Phase, "compile", counted)
    config = tiny_config(seer__init_from=str(source), seer__freeze_step=0)
    end = train.run(config, tmp_path / "run")
    assert compiled == [("frozen", (2, 1, 1, 64), 400 + 10)]
    lines = records(tmp_path / "run")
    assert {line["phase"] for line in lines} == {"frozen"}
    assert not [line for line in lines if line["kind"] == "freeze"]
    assert end["updates"] > 300
    jax.tree.map(
        np.testing.assert_array_equal,
        encoder_stages(saved_params(tmp_path / "run")),
        encoder_stages(saved_params(source)),
    )
    assert saved_params(tmp_path / "run")["heads"]["params"]["advantage"]["kernel"].shape[-1] == 5 * 51
    # Neither an evaluation nor a resumed run reads the run that the encoder came from.
    config_file = tmp_path / "run" / "config.json"
    config_file.write_text(config_file.read_text().replace(str(source), "/gone"))
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path / 'run'}"]) == 0
    assert train.main(["train", "--resume", f"--run_dir={tmp_path / 'run'}"]) == 0


def test_encoder_can_be_trained_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make_env", make_env(num_actions=5))
    loops = []
    monkeypatch.setattr(Loop, "train", lambda self, stop: loops.append(self))
    train.run(tiny_config(seer__init_from=str(source)), tmp_path / "run")
    state = loops[0]._stepper.state
    for params in (state.train.params, state.train.target_params):
        jax.tree.map(np.testing.assert_array_equal, encoder_stages(params), encoder_stages(saved_params(source)))
    assert state.phase == "full"
    assert set(state.train.opt_state) == {"encoder", "tail", "heads"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env__image_size": 84, "env__crop_size": 84}, "env.image_size=42 there and 84 here"),
        ({"env__crop_size": 40}, "env.crop_size=42 there and 40 here"),
        (
            {"encoder__name": "canonical", "replay__allow_more_memory": True},
            "encoder.name=data_efficient there and canonical here",
        ),
        ({"env__frame_stack": 2}, "env.frame_stack=4 there and 2 here"),
    ],
)
def test_encoder_that_does_not_fit_is_refused_with_both_values(source, tmp_path, changes, message):
    with pytest.raises(transfer.TransferError, match=message):
        train.run(tiny_config(seer__init_from=str(source), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, "{", '{"env": 3}', "[]"])
def test_directory_that_holds_no_run_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(transfer.TransferError, match=r"seer\.init_from"):
        train.run(tiny_config(seer__init_from=str(tmp_path)), tmp_path / "run")


def test_run_without_readable_parameters_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make_env", make_env(num_actions=3))
    (tmp_path / "config.json").write_text(json.dumps(resolve(tiny_config()).to_dict()))
    config = resolve(tiny_config(seer__init_from=str(tmp_path)))
    with pytest.raises(transfer.TransferError, match="no parameters"):
        transfer.check(config, tmp_path)
    write_run(tmp_path, tiny_config(), params={"encoder": {"conv1": np.zeros(3)}})
    state = tmp_path / "checkpoints" / "000001" / files.TREE_FILE
    whole = state.read_bytes()
    state.write_bytes(b"garbage")
    with pytest.raises(transfer.TransferError, match="no parameters"):
        transfer.check(config, tmp_path)
    state.write_bytes(whole)
    with pytest.raises(transfer.TransferError, match="here"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_freezing_an_untrained_encoder_is_refused():
    with pytest.raises(ConfigError, match=r"untrained encoder .* seer\.init_from"):
        resolve(tiny_config(seer__freeze_step=0))
