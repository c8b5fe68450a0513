"""Records and directories of runs, as if training had written them."""

import json

from experiments import records


def write_run_dir(directory, lines, config=None):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config or make_config()))
    (directory / "manifest.json").write_text(json.dumps(MANIFEST))
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


MANIFEST = {"packages": {"jax": "1.2.3"}, "git_commit": "abc", "devices": ["cpu:0"], "seed": 0, "protocol": "seer"}


def make_config(task="krull", seed=0, enabled=True):
    return {"agent": {"name": "rainbow"}, "env": {"task": task}, "seed": seed, "seer": {"enabled": enabled}}


def evaluation(steps, score, kind="eval", **fields):
    line = {
        "kind": kind,
        "env_steps": steps,
        "frames": 4 * steps,
        "macs_total": 1e6 * steps,
        "flops_total": 3e6 * steps,
    }
    line |= {"seconds": steps / 10, "replay_bytes": 1000, "replay_size": 50, "replay_capacity": 100, "phase": "full"}
    return line | {"eval_return_mean": score} | fields


def make_records(arm, scores_by_step, *, task="krull", seed=0, freeze=None):
    lines = [evaluation(steps, score) for steps, score in scores_by_step.items()]
    if freeze is not None:
        lines.append(evaluation(freeze, None, "freeze"))
    last = max(scores_by_step)
    lines.append(evaluation(last, scores_by_step[last], "end", full_steps_per_second=10.0, full_replay_capacity=7))
    return records.Records(f"{task}-{arm}-s{seed}", arm, make_config(task, seed), MANIFEST, lines)
