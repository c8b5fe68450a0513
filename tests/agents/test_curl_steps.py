"""The optimizer steps of a full CURL-SAC update, against a naive twin of the published code's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seer_jax.agents import base
from seer_jax.agents.curl_networks import CRITIC
from tests.helpers import agents

pytestmark = pytest.mark.numeric

STAGES = ("encoder", "tail")
# Split after its first stage: frozen stages, stages that train on, and the dense layer are all stepped.
small_agent = functools.partial(agents.make, "curl_sac", seer__freeze_through="conv1")


class NaiveAdam:
    """Adam (Kingma & Ba 2015, algorithm 1) in float64, over a dictionary of parts; each has its own moments.

    Args:
      state: Adam's state in an agent, by part, to begin with.
      rate: step size.
    """

    def __init__(self, state, rate):
        self.rate, self.count = rate, {int(adam.count) for adam in state.values()}.pop()
        self.mean, self.square = (
            float64({part: getattr(s, name) for part, s in state.items()}) for name in ("mu", "nu")
        )

    def step(self, params, grads):
        """Returns parameters with the parts of `grads` moved by one step."""
        self.count += 1
        self.mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.mean, grads)
        self.square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, self.square, grads)

        def moved(p, m, v):
            return p - self.rate * (m / (1 - 0.9**self.count)) / (np.sqrt(v / (1 - 0.999**self.count)) + 1e-8)

        return params | jax.tree.map(moved, {part: params[part] for part in grads}, self.mean, self.square)


class NaiveSteps:
    """The three optimizers of SEER's code that step encoder, Q-functions and bilinear product, on given gradients."""

    def __init__(self, state, rate):
        adams = {part: opt_state[0] for part, opt_state in state.opt_state.items()}
        contrast = adams["contrast"]
        parts = {part: contrast._replace(mu=contrast.mu[part], nu=contrast.nu[part]) for part in contrast.mu}
        self.encoder_optimizer = NaiveAdam({part: adams[part] for part in STAGES}, rate)
        self.critic_optimizer = NaiveAdam({"critic": adams["critic"]}, rate)
        self.contrast_optimizer = NaiveAdam(parts, rate)
        self.params = float64({part: state.params[part] for part in (*STAGES, "critic", "contrast")})

    def update(self, critic_grads, contrast_grads):
        """Makes the steps of one update, in the order of the published code."""
        stages = {part: critic_grads[part] for part in STAGES}
        self.params = self.critic_optimizer.step(self.params, {"critic": critic_grads["critic"]})
        self.params = self.encoder_optimizer.step(self.params, stages)
        stages = {part: contrast_grads[part] for part in STAGES}
        self.params = self.encoder_optimizer.step(self.params, stages)
        self.params = self.contrast_optimizer.step(self.params, contrast_grads)


def float64(tree):
    return jax.tree.map(np.float64, jax.device_get(tree))


def gradients(update, state, batch):
    """Returns the gradients of the critic loss and of the contrastive loss in an update, by part."""
    k_views, k_target, _ = jax.random.split(base.update_keys(state)[1], 3)
    inputs = update._augment(k_views, batch)
    target = update._td_target(state, inputs, batch, k_target)
    positive = update._latent(state.params | state.target_params, inputs.positive, CRITIC)

    def critic_loss(trained):
        latent = update._latent(state.params | trained, inputs.obs, CRITIC)
        return update._critic_loss(trained["critic"], latent, batch, target)[0]

    def contrastive_loss(trained):
        latent = update._latent(state.params | trained, inputs.obs, CRITIC)
        return update._contrastive_loss(trained["contrast"], latent, positive)

    stages = {part: state.params[part] for part in STAGES}
    return (
        jax.grad(critic_loss)(stages | {"critic": state.params["critic"]}),
        jax.grad(contrastive_loss)(stages | {"contrast": state.params["contrast"]}),
    )


def relative_difference(actual, desired):
    """Returns the largest difference of two trees, relative to the largest entry of each array."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True)
    return max(np.abs(np.float64(a) - b).max() / np.abs(b).max() for a, b in pairs)


def test_parameters_and_moments_after_six_updates_equal_the_twin_of_the_published_steps():
    small = small_agent()
    state, twin = small.state, NaiveSteps(small.state, small.config.agent.learning_rate)
    begin, find_gradients = twin.params, jax.jit(lambda *args: gradients(small.agent.full.updates[0], *args))
    assert set(begin["encoder"]) == {"conv1"}
    assert set(begin["tail"]) == {"conv2", "dense"}
    for i in range(6):
        batch = agents.random_batch("curl_sac", seed=i)
        twin.update(*float64(find_gradients(state, batch)))
        state, _, _ = small.full_updates[i % 2](state, batch)

    def moved(params):
        return jax.tree.map(lambda new, old: np.float64(new) - old, {part: params[part] for part in begin}, begin)

    adams = {part: opt_state[0] for part, opt_state in state.opt_state.items()}
    found = {"displacement": relative_difference(moved(state.params), moved(twin.params))}
    for name, optimizer, parts in (
        ("encoder", twin.encoder_optimizer, {part: adams[part] for part in STAGES}),
        ("critic", twin.critic_optimizer, {"critic": adams["critic"]}),
    ):
        assert {int(adam.count) for adam in parts.values()} == {optimizer.count}
        found[name] = relative_difference({part: adam.mu for part, adam in parts.items()}, optimizer.mean)
    assert int(adams["contrast"].count) == twin.contrast_optimizer.count
    found["contrast"] = relative_difference(adams["contrast"].mu, twin.contrast_optimizer.mean)
    print("largest relative differences of six updates from the twin:", found)
    assert twin.encoder_optimizer.count == 10_000 + 2 * 6  # two steps an update
    assert twin.critic_optimizer.count == twin.contrast_optimizer.count == 10_000 + 6
    assert max(found.values()) < 1e-3, found


@pytest.mark.parametrize(("double", "encoder_steps"), [(True, 2), (False, 1)])
def test_contrastive_step_from_a_fresh_state_moves_the_encoder_twice_and_the_product_once(double, encoder_steps):
    small = small_agent()
    agent = dataclasses.replace(small.config.agent, double_contrastive_step=double)
    update = dataclasses.replace(small.agent.full.updates[0], agent=agent)
    stages, product = ({part: small.state.params[part] for part in parts} for parts in (STAGES, ("contrast",)))
    new = {part: update.optimizers[part].init(params) for part, params in stages.items()}
    fresh = small.state.replace(opt_state=new | {"contrast": update.optimizers["contrast"].init(stages | product)})
    grads = jax.tree.map(jnp.ones_like, stages | product)
    moved = update._contrastive_step(fresh, {part: grads[part] for part in STAGES}, grads["contrast"])
    for part, steps in (*((part, encoder_steps) for part in STAGES), ("contrast", 1)):
        for after, before in zip(*(jax.tree.leaves(state.params[part]) for state in (moved, fresh)), strict=True):
            # The length of Adam's first step is its learning rate.
            np.testing.assert_allclose((before - after) / agent.learning_rate, steps, rtol=1e-3)
    counts = {part: int(optax.tree_utils.tree_get(moved.opt_state[part], "count")) for part in (*STAGES, "contrast")}
    assert counts == {"encoder": encoder_steps - 1, "tail": encoder_steps - 1, "contrast": 1}
