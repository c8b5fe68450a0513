"""The runs of the figures and tables of the paper."""

import dataclasses
import functools

import pytest

from experiments.run import EXPERIMENTS
from experiments.runner.spec import Run
from seer_jax.config import RunConfig


@functools.cache
def paper_runs() -> dict[str, list[Run]]:
    return {name: experiment.runs("paper") for name, experiment in EXPERIMENTS.items()}


@functools.cache
def load(name: str) -> RunConfig:
    """Returns the resolved configuration of the run of this name; a budget, which takes long to convert, is ignored."""
    run = next(run for runs in paper_runs().values() for run in runs if run.name == name)
    return dataclasses.replace(run, budget=None).load()


def tasks(name: str) -> set[str]:
    return {run.overrides["env.task"] for run in paper_runs()[name]}


def first_seed_configs(name: str, task: str | None = None) -> dict[str, RunConfig]:
    """Returns resolved configurations of an experiment's runs with seed 0, by name without the seed."""
    runs = [run for run in paper_runs()[name] if run.overrides["seed"] == 0]
    names = [run.name for run in runs if task in (None, run.overrides["env.task"])]
    return {name.removesuffix("-s0"): load(name) for name in names}


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
def test_runs_of_one_name_are_equal(scale):
    by_name = {}
    for experiment in EXPERIMENTS.values():
        for run in experiment.runs(scale):
            known = by_name.setdefault(run.name, run)
            assert dataclasses.replace(run, arm=known.arm) == known


def test_configurations_of_all_arms_are_valid():
    name_by_arm = {}
    for runs in paper_runs().values():
        for run in runs:
            name_by_arm.setdefault(run.arm, run.name)
    for name in name_by_arm.values():
        load(name)  # raises otherwise


def test_only_runs_at_equal_flops_have_a_budget():
    assert {run.budget for run in paper_runs()["fig3"]} == {45e12}
    assert {run.budget for name in ("fig2", "fig4", "fig6", "fig7") for run in paper_runs()[name]} == {None}


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
def test_runs_that_start_alike_fork_one_trunk_at_their_freeze(scale):
    for name, experiment in EXPERIMENTS.items():
        runs = {run.name: run for run in experiment.runs(scale)}
        for run in runs.values():
            if run.fork is not None:
                trunk = runs[run.fork.trunk]
                assert run.fork.env_steps <= run.overrides["seer.freeze_step"]
                assert run.fork.env_steps in trunk.overrides["checkpoint_at"]
        arms = {run.arm: run.fork is not None for run in runs.values()}
        with_seer = [arm for arm in arms if "SEER" in arm or "frozen at" in arm or "latents" in arm]
        assert all(arms[arm] for arm in with_seer if "from" not in arm), (name, arms)


def test_figures_of_rainbow_have_the_paper_s_settings():
    games = {"alien", "amidar", "bank_heist", "crazy_climber", "krull", "qbert", "road_runner", "seaquest"}
    assert tasks("fig3") == tasks("fig4") == games
    assert {c.seer.freeze_step for c in first_seed_configs("fig3", "alien").values() if c.seer.enabled} == {50_000}
    little_memory = first_seed_configs("fig4", "alien")
    assert {c.total_steps for c in little_memory.values()} == {500_000}
    assert {c.replay.capacity for name, c in little_memory.items() if "small" in name} == {10_000}
    assert {c.replay.grow_after_freeze for name, c in little_memory.items() if "seer" in name} == {True}


def test_figures_of_curl_have_the_paper_s_settings():
    assert tasks("fig2") == {"cartpole-swingup", "finger-spin", "reacher-easy", "walker-walk"}
    assert {c.env.image_size for c in first_seed_configs("fig2", "cartpole-swingup").values()} == {100}
    assert len({run.overrides["seed"] for run in paper_runs()["fig2"]}) == 5
    assert {c.encoder.name for c in first_seed_configs("fig6", "cartpole-swingup").values()} == {"impala"}
    transfer = first_seed_configs("fig7")
    assert transfer["walker-stand-source"].total_steps == 60_000
    assert {c.env.task for c in transfer.values()} == {"walker-stand", "walker-walk", "hopper-hop"}
    assert transfer["hopper-hop-from-walker-stand"].seer.freeze_step == 0
