"""What one process knows of several hosts: its devices, environments and the errors of others."""

import types

import jax
import numpy as np
import pytest

from seer_jax.fields import ConfigError
from seer_jax.run.checkpoint import StateOnlyError
from seer_jax.seer import hosts, placement
from seer_jax.seer.handover import HandoverError
from seer_jax.seer.placement import Placement

NUM_ENVS = 4


def devices_of(*counts):
    """Returns devices of processes that have so many."""
    return [types.SimpleNamespace(process_index=i, id=(i, k)) for i, count in enumerate(counts) for k in range(count)]


@pytest.fixture
def on_hosts(monkeypatch):
    """Returns a function that makes this process one of several with so many devices."""

    def be(*counts, index=0):
        monkeypatch.setattr(jax, "devices", lambda: devices_of(*counts))
        monkeypatch.setattr(jax, "process_count", lambda: len(counts))
        monkeypatch.setattr(jax, "process_index", lambda: index)

    return be


def placed(num_seeds, seed, data, devices):
    mesh = types.SimpleNamespace(
        devices=np.array([*devices, None], object)[:-1].reshape(seed, data), shape={"seed": seed, "data": data}
    )
    return Placement(num_seeds, mesh)


@pytest.mark.parametrize(
    ("counts", "seed", "data", "message"),
    [
        ((2, 2), 3, 1, "mesh.seed=3 and mesh.data=1 need 3 devices, which 2 processes cannot have the same number of;"),
        ((2, 2), 1, 6, "mesh.seed=1 and mesh.data=6 need 3 devices of each of 2 processes, and one has 2; lower"),
        (
            (2, 2, 2),
            2,
            3,
            "mesh.seed=2 and mesh.data=3 give each process 2 devices: that and mesh.data=3 must be multiples of each",
        ),
    ],
)
def test_mesh_that_cannot_be_spread_over_the_hosts_is_refused(on_hosts, counts, seed, data, message):
    on_hosts(*counts)
    with pytest.raises(ConfigError, match=message):
        placement._devices_of_hosts(seed, data)


def test_processes_with_different_numbers_of_devices_are_refused(on_hosts, monkeypatch):
    on_hosts(2, 3)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="the processes have from 2 to 3 devices; start all with the same number"):
        hosts.Hosts()


def test_each_host_gives_the_first_of_its_devices(on_hosts):
    on_hosts(4, 4)
    assert [device.id for device in placement._devices_of_hosts(2, 2)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("num_seeds", "seed", "data", "counts"),
    [(2, 2, 1, (1, 1)), (4, 2, 2, (2, 2)), (1, 1, 2, (1, 1)), (2, 1, 2, (1, 1))],
)
def test_each_environment_belongs_to_one_host_and_each_seed_is_evaluated_by_one(
    on_hosts, num_seeds, seed, data, counts
):
    lanes, first = [], []
    for index in range(len(counts)):
        on_hosts(*counts, index=index)
        place = placed(num_seeds, seed, data, placement._devices_of_hosts(seed, data))
        assert place.on_several_hosts
        mine = place.lanes_here(NUM_ENVS)
        assert set(mine // NUM_ENVS) == set(place.seeds_here)
        lanes += mine.tolist()
        first += place.seeds_first_here
        assert all(place.host_of(each, 0) == index for each in place.seeds_first_here)
    assert sorted(lanes) == list(range(num_seeds * NUM_ENVS))
    assert sorted(first) == list(range(num_seeds))


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (HandoverError("no room"), HandoverError, "no room"),
        (StateOnlyError(28, "full"), StateOnlyError, "[Errno 28] full"),
        (OSError(28, "full"), OSError, "[Errno 28] full"),
        (pytest.fail.Exception("x"), hosts.HostFailedError, "process 1 failed: Failed: x"),
    ],
)
def test_error_of_another_process_is_the_same_here_if_it_is_known(error, kind, text):
    found = hosts._decode(hosts._encode(error), 1)
    assert (type(found), str(found)) == (kind, text)


def test_one_process_exchanges_nothing():
    alone, calls = hosts.Hosts(lambda: True), []
    assert (alone.count, alone.leads, alone.stop()) == (1, True, True)
    assert alone.exchange("value") == ["value"]
    assert alone.attempt(lambda: 3) == [3]
    assert alone.lead(lambda: 4) == 4
    assert alone.apart(lambda stop: calls.append(stop()), lambda: False, ValueError, 1) is None
    assert calls == [False]
    with pytest.raises(ValueError, match="now"):
        alone.defer(ValueError("now"))
