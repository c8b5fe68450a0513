"""Rows of the rings of both phases, in the numbers of the paper."""

import pytest

from configs import rainbow_atari
from seer_jax.run.resolve import resolve
from seer_jax.seer import capacity


@pytest.mark.parametrize(
    ("encoder", "dtype", "rows", "expected"),
    [
        ("data_efficient", "float32", 10_000, 30_625),
        ("data_efficient", "bfloat16", 10_000, 61_250),
        ("canonical", "float32", 10_000, 5_625),
        ("canonical", "float16", 10_000, 11_250),
    ],
)
def test_latents_in_the_bytes_of_frames_are_those_of_the_papers_formula(encoder, dtype, rows, expected):
    config = rainbow_atari.get_config()
    config.encoder.name, config.replay.latent_dtype, config.replay.capacity = encoder, dtype, rows
    config.replay.allow_more_memory = True
    assert capacity.capacity_in_same_bytes(resolve(config)) == expected
    assert capacity.frozen_capacity(resolve(config)) == rows
    config.replay.grow_after_freeze = True
    assert capacity.frozen_capacity(resolve(config)) == max(rows, expected)


def test_bytes_per_row_count_every_copy_and_every_latent():
    config = rainbow_atari.get_config()
    assert capacity.bytes_per_row(resolve(config)) == (84 * 84, 4 * 576)
    config.replay.latent_dtype, config.seer.freeze_through = "float16", "conv1"
    config.replay.allow_more_memory = True
    assert capacity.bytes_per_row(resolve(config)) == (84 * 84, 2 * 16 * 16 * 32)


def test_rings_have_no_more_rows_than_the_run_can_fill():
    config = rainbow_atari.get_config()
    assert capacity.full_capacity(resolve(config)) == 2 * 50_000 + 27
    assert capacity.frozen_capacity(resolve(config)) == 500_000
    config.total_steps = 52_613
    assert capacity.frozen_capacity(resolve(config)) == 2 * 52_613 + 27
    config.seer.enabled = False
    assert capacity.full_capacity(resolve(config)) == 2 * 52_613 + 27
    config.total_steps = 500_000
    assert capacity.full_capacity(resolve(config)) == 500_000
