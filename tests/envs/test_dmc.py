"""DeepMind Control on real physics and real rendering; the official package is the measure of the other backend."""

import sys

import numpy as np
import pytest

from configs import curl_dmc
from seer_jax import envs
from seer_jax.envs import dmc, registry, timestep
from seer_jax.fields import ConfigError
from seer_jax.run.resolve import resolve

pytestmark = pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")


def make(task="cartpole-swingup", *, num_envs=2, seed=0, training=True, **changes):
    if changes.get("backend") == "dm_control":
        pytest.importorskip("dm_control")  # not among the pins for Python 3.13
    arguments = dict(image_size=32, action_repeat=4, camera_id=0, render_quality="fast")
    seeds = registry.environment_seeds(seed, num_envs, training=training, pool=0)
    return dmc.DmcEnv(task, seeds=seeds, **arguments | changes)


def play(env, actions):
    """Returns the timesteps of one episode in each environment."""
    steps = [env.reset()]
    for action in actions:
        steps.append(env.step(action))
        if steps[-1].last.all():
            break
    env.close()
    return steps


def random_actions(env, count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (env.num_envs, *env.action_spec.shape)) for _ in range(count)]


@pytest.mark.parametrize("backend", list(dmc.BACKENDS))
@pytest.mark.parametrize("repeat", [16, 300])
def test_episodes_end_by_truncation_after_a_thousand_control_steps(backend, repeat):
    env = make(backend=backend, action_repeat=repeat)
    steps = play(env, random_actions(env, 1000))
    assert len(steps) - 1 == -(-1000 // repeat)
    final = steps[-1]
    assert final.last.all()
    assert final.truncated.all()
    assert not final.terminated.any()
    assert not any(step.last.any() or step.terminated.any() for step in steps[:-1])
    assert steps[0].first.all()
    assert not any(step.first.any() for step in steps[1:])


@pytest.mark.parametrize("backend", list(dmc.BACKENDS))
def test_timestep_after_the_last_starts_an_episode(backend):
    env = make(backend=backend, action_repeat=500)
    action = np.ones((2, 1))
    start, _, last, again, after = env.reset(), *(env.step(action) for _ in range(4))
    assert last.last.all()
    assert again.first.all()
    assert not again.reward.any()
    assert not again.last.any()
    assert not after.first.any()
    # An episode starts near the same pose, which a second of pushing is far from.
    assert np.abs(start.frame.astype(int) - again.frame).mean() < np.abs(last.frame.astype(int) - again.frame).mean()
    env.close()


def test_action_repeat_sums_the_rewards_of_its_control_steps():
    one, eight = make(action_repeat=1), make(action_repeat=8)
    actions = random_actions(eight, 5)
    one.reset(), eight.reset()
    for action in actions:
        singles = [one.step(action) for _ in range(8)]
        repeated = eight.step(action)
        np.testing.assert_allclose(repeated.reward, sum(step.reward for step in singles), rtol=1e-5)
        np.testing.assert_array_equal(repeated.frame, singles[-1].frame)
    one.close(), eight.close()


def test_episode_that_ends_inside_a_repeat_stops_the_sum():
    """Lanes restart one by one: a thousand steps are three repeats of 300 and one of 100."""
    single, long = make(action_repeat=1, num_envs=1), make(action_repeat=300, num_envs=1)
    action = np.full((1, 1), 0.3)
    single.reset(), long.reset()
    rewards = [single.step(action).reward[0] for _ in range(1000)]
    sums = [long.step(action).reward[0] for _ in range(4)]
    np.testing.assert_allclose(sums, [sum(rewards[i : i + 300]) for i in range(0, 1000, 300)], rtol=1e-4)
    single.close(), long.close()


@pytest.mark.parametrize("task", ["walker-walk", "quadruped-walk"])
def test_both_backends_agree_on_shapes_pictures_and_returns(task):
    camera = dmc.protocol_items(dmc.PROTOCOLS["seer"], task)["camera_id"]
    specs, returns, pictures = [], [], []
    for backend in dmc.BACKENDS:
        env = make(
            task,
            backend=backend,
            image_size=48,
            camera_id=camera,
            action_repeat=15,  # most of the time goes into pictures, one for each repeat
            num_envs=4,
            render_quality="full",
        )
        steps = [env.reset(), *(env.step(action) for action in random_actions(env, 4))]
        specs.append((env.action_spec.shape, env.frame_shape))
        returns.append(sum(step.score for step in steps))
        pictures.append(np.mean([step.frame for step in steps], axis=(0, 1), dtype=float))
        assert steps[0].frame.dtype == np.uint8
        env.close()
    assert specs[0] == specs[1]
    assert pictures[0].shape == (48, 48, 3)
    # The physics are two versions and the starts are drawn by two generators: alike on average alone.
    assert np.abs(pictures[0] - pictures[1]).mean() < 12
    assert np.abs(pictures[0].mean(axis=(0, 1)) - pictures[1].mean(axis=(0, 1))).max() < 12
    spread = max(r.std() for r in returns) + 1.0
    assert abs(returns[0].mean() - returns[1].mean()) < 3 * spread


def test_pictures_of_the_same_pose_are_close():
    """Cartpole's start is drawn within a hundredth of the same pose."""
    full, fast, official = (
        make(render_quality=quality, backend=backend, image_size=64).reset().frame.astype(float)
        for backend, quality in (("envpool", "full"), ("envpool", "fast"), ("dm_control", "full"))
    )
    assert np.abs(full - official).mean() < 4
    assert np.abs(full - fast).mean() < 6
    assert not np.array_equal(full, fast)


def test_pictures_of_two_cameras_differ():
    frames = [make("quadruped-walk", camera_id=camera).reset().frame for camera in (0, 2)]
    assert not np.array_equal(*frames)


def test_starts_differ_between_environments_seeds_and_evaluation():
    starts = [
        make("walker-walk", seed=seed, training=training).reset().frame
        for seed, training in ((0, True), (1, True), (0, False), (0, True))
    ]
    flat = [frame.tobytes() for start in starts[:3] for frame in start]
    assert len(set(flat)) == len(flat)
    np.testing.assert_array_equal(starts[0], starts[3])
    assert len(set(registry.environment_seeds(0, 64, training=True, pool=0))) == 64


def test_actions_are_clipped_and_scaled_to_the_bounds_of_the_task():
    env = make("cartpole-swingup", backend="dm_control")
    sent = []
    step = env._backend.step
    env._backend.step = lambda lanes, action: (sent.append(action), step(lanes, action))[1]
    env._center, env._scale = np.asarray([1.0]), np.asarray([2.0])
    env.reset()
    env.step(np.asarray([[5.0], [-0.5]]))  # clipped, then scaled
    np.testing.assert_allclose(sent[0], [[3.0], [0.0]])
    env.close()


def test_every_task_of_the_suite_has_a_name_and_an_identifier():
    suite = pytest.importorskip("dm_control.suite")
    assert set(dmc.tasks()) == {f"{domain}-{task}" for domain, task in suite.ALL_TASKS}
    items = {task: dmc.protocol_items(dmc.PROTOCOLS["seer"], task) for task in dmc.tasks()}
    assert items["cartpole-swingup"] == {"action_repeat": 8, "camera_id": 0}
    assert items["walker-run"] == {"action_repeat": 2, "camera_id": 0}
    assert items["quadruped-run"] == {"action_repeat": 4, "camera_id": 2}


@pytest.mark.parametrize("backend", list(dmc.BACKENDS))
def test_every_task_of_the_suite_plays_within_the_bounds_of_its_actuators_or_is_refused(backend, monkeypatch):
    """Without pictures, which take most of the time."""
    if backend == "dm_control":
        pytest.importorskip("dm_control")
    monkeypatch.setattr(dmc, "require_rendering", lambda *args: None)
    monkeypatch.setattr(dmc.BACKENDS[backend], "render", lambda backend, lanes: np.zeros((1, 32, 32, 3), np.uint8))
    for task in dmc.tasks():
        config = curl_dmc.get_config()
        config.env.update({"task": task, "backend": backend})
        if task.startswith("lqr-"):
            with pytest.raises(ConfigError, match="actuators without bounds"):
                resolve(config)
            continue
        resolve(config)
        env = make(task, backend=backend, num_envs=1, render_quality="full", action_repeat=2)
        assert np.abs([env._backend.action_spec.minimum, env._backend.action_spec.maximum]).max() < 10
        env.reset()
        for action in (np.ones((1, *env.action_spec.shape)), *random_actions(env, 2)):
            timestep.check(env.step(action))
        env.close()


def test_machine_without_rendering_raises_with_what_to_install(monkeypatch):
    dmc.require_rendering.cache_clear()
    monkeypatch.setattr(envs, "HAS_EGL", False)
    with pytest.raises(dmc.RenderingError, match="apt-get install libegl1"):
        make()
    monkeypatch.undo()
    monkeypatch.setattr(envs, "EGL_COMES_FIRST", False)
    with pytest.raises(dmc.RenderingError, match="import it after"):
        make()
    dmc.require_rendering.cache_clear()


def test_missing_official_package_is_reported_with_its_installation(monkeypatch):
    dmc.require_rendering.cache_clear()
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(dmc.RenderingError, match="pip install --no-deps dm_control"):
        dmc.require_rendering(backend="dm_control")
