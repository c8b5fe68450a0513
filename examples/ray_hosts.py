"""One run on several nodes of a Ray cluster: starts a process of `seer_jax.train` on each of them.

    python examples/ray_hosts.py NODES [--cpus=8] [--gpus=1] -- --config=rainbow_atari --config.num_seeds=8 \\
        --config.mesh.seed=2 --run_dir=/shared/runs/seeds --resume

Each process gets the cores and GPUs named, on a node of its own. The run directory lies on a file system that all
nodes share. RAY_ADDRESS names the cluster; without it Ray starts one on this machine. If one process ends with an
error, Ray is asked to stop the others; the same command then continues the run.
"""

import argparse
import os
import socket
import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


@ray.remote(max_restarts=0)
class Host:
    """A process of the run."""

    def address(self) -> str:
        """Returns the address of this node, with a port that is free."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{listener.getsockname()[1]}"

    def train(self, arguments: list[str], directory: str) -> int:
        """Trains until the end and returns the exit code."""
        command = [sys.executable, "-m", "seer_jax.train", *arguments]
        return subprocess.run(command, cwd=directory, check=False).returncode


def main() -> int:
    """Trains and returns the largest exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("nodes", type=int)
    parser.add_argument("--cpus", type=float, default=8)
    parser.add_argument("--gpus", type=float, default=1)
    parser.add_argument("--strategy", default="STRICT_SPREAD", help="PACK tries several processes on one node")
    parser.add_argument("arguments", nargs="+", help="of seer_jax.train")
    options = parser.parse_args()
    ray.init()
    group = placement_group([{"CPU": options.cpus, "GPU": options.gpus}] * options.nodes, strategy=options.strategy)
    ray.get(group.ready())
    hosts = [
        Host.options(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
        ).remote()
        for i in range(options.nodes)
    ]
    flags = [f"--coordinator={ray.get(hosts[0].address.remote())}", f"--num_processes={options.nodes}"]
    running = [
        host.train.remote([*options.arguments, *flags, f"--process_id={i}"], os.getcwd())
        for i, host in enumerate(hosts)
    ]
    return max(map(abs, ray.get(running)))


if __name__ == "__main__":
    sys.exit(main())
