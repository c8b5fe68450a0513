"""Slow twins of what the library does fast: plain Python and NumPy in float64, one element at a time."""

import numpy as np


class NaiveReplay:
    """All rows that were ever written, in one list for each environment, searched from scratch by each method.

    Args:
      capacity: times that a ring of the same size remembers.
      stack: frames in an observation; 0 for rows that hold latents.
      first_stack: `black` if zeros stand before the first frame of an episode, `repeat` if that frame does.
    """

    def __init__(self, *, capacity, num_envs, stack, n_step, discount, first_stack="black"):
        self.capacity, self.stack, self.n_step, self.discount = capacity, stack, n_step, discount
        self.first_stack = first_stack
        self.lanes = [[] for _ in range(num_envs)]

    def add(self, rows):
        """Appends one row, a dictionary of fields, to each lane."""
        for lane, row in zip(self.lanes, rows, strict=True):
            lane.append(row)

    def oldest(self):
        return max(0, len(self.lanes[0]) - self.capacity)

    def transition(self, env, start):
        """Returns `(obs, action, reward, discount, next_obs)` of the window from time `start`, or None."""
        lane = self.lanes[env]
        if not self.oldest() <= start < len(lane) or lane[start]["last"]:
            return None
        obs = self.observation(env, start)
        if obs is None:
            return None
        total, factor, time = 0.0, 1.0, start
        for _ in range(self.n_step):
            time += 1
            if time >= len(lane):
                return None
            total += factor * lane[time]["reward"]
            factor *= self.discount
            if lane[time]["terminated"]:
                return obs, lane[start]["action"], total, 0.0, self.observation(env, time)
            if lane[time]["last"]:
                break
        return obs, lane[start]["action"], total, factor, self.observation(env, time)

    def observation(self, env, time):
        """Returns the stack, newest last, or the row's latents; None where a needed frame was overwritten."""
        lane = self.lanes[env]
        if not self.stack:
            return lane[time]["observation"]
        frames, complete = [], False
        for age in range(self.stack):
            if complete:
                frames.append(frames[-1] if self.first_stack == "repeat" else np.zeros_like(frames[-1]))
                continue
            if time - age < self.oldest():
                return None
            frames.append(lane[time - age]["observation"])
            complete = lane[time - age]["first"]
        return np.concatenate(frames[::-1], axis=-1)

    def transitions(self):
        """Returns every sampleable transition by `(env, start)`."""
        found = {
            (env, start): self.transition(env, start)
            for env, lane in enumerate(self.lanes)
            for start in range(self.oldest(), len(lane))
        }
        return {at: transition for at, transition in found.items() if transition is not None}


def project_c51(support, probs, reward, discount):
    """Projects a return distribution one atom at a time (Bellemare et al. 2017, algorithm 1)."""
    low, high, width = support[0], support[-1], support[1] - support[0]
    projected = np.zeros_like(probs)
    for atom, prob in zip(support, probs, strict=True):
        position = (np.clip(reward + discount * atom, low, high) - low) / width
        left = min(int(np.floor(position + 1e-6)), len(support) - 1)
        share = np.clip(position - left, 0.0, 1.0)
        projected[left] += prob * (1 - share)
        if share > 0:
            projected[min(left + 1, len(support) - 1)] += prob * share
    return projected


def double_q_losses(support, online, selector, target, batch):
    """Returns the cross-entropy of each transition to its projected double-Q target.

    Args:
      support: `[A]` atoms.
      online: `[B, num_actions, A]` online return distributions at the first observations.
      selector: the same at the last ones, which choose the action.
      target: target return distributions at the last ones.
      batch: the transitions.
    """
    online, selector, target = (np.asarray(probs, np.float64) for probs in (online, selector, target))
    losses = []
    for i, action in enumerate(np.asarray(batch.action)):
        best = (selector[i] @ support).argmax()
        projected = project_c51(support, target[i, best], float(batch.reward[i]), float(batch.discount[i]))
        losses.append(-np.sum(projected * np.log(online[i, action])))
    return np.asarray(losses)


def info_nce(anchors, positives, product):
    """Returns each anchor's cross-entropy of finding its positive among all, `[B]`."""
    out = []
    for i, anchor in enumerate(anchors):
        scores = [sum(anchor @ product * positive) for positive in positives]
        out.append(-scores[i] + np.log(np.sum(np.exp(scores))))
    return np.array(out)


def squashed_log_prob(raw, mean, std):
    """Returns the log-density of the action `tanh(raw)`, `[A]`, of a Gaussian before tanh."""
    gaussian = -0.5 * ((raw - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    return np.sum(gaussian - np.log(1 - np.tanh(raw) ** 2))


class NaiveCurl:
    """The networks and the four losses of CURL-SAC with the data-efficient encoder, frozen through `dense`.

    Parameters are those of a `TrainState`. Views are `[B, h, w, C]` uint8, noise is `[B, A]` standard normals.
    """

    def __init__(self, *, log_std_min, log_std_max):
        self.log_std_min, self.log_std_max = log_std_min, log_std_max

    def latents(self, encoder, dense, views):
        """Returns `[B, L]`, one view at a time."""
        return np.stack([self._latent(encoder, dense, view / 255.0) for view in views])

    def _latent(self, encoder, dense, x):
        for stage in ("conv1", "conv2"):
            x = _patch_convolution(encoder[stage]["params"]["PatchConv_0"], x)
        hidden = _dense(dense["params"]["Dense_0"], x.ravel())
        norm = dense["params"]["LayerNorm_0"]
        return (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5) * norm["scale"] + norm["bias"]

    def critic_latents(self, params, views):
        return self.latents(params["encoder"], params["encoder"]["dense"], views)

    def actor_latents(self, params, views):
        return self.latents(params["encoder"], params["actor_encoder"]["dense"], views)

    def q_values(self, critic, latent, action):
        """Returns both Q-values of one latent and one action."""
        x = np.concatenate([latent, action])
        return [_mlp(critic["params"], name, x)[0] for name in ("q1_", "q2_")]

    def act(self, actor, latent, noise):
        """Returns an action and its log-density."""
        mean, raw = np.split(_mlp(actor["params"], "policy", latent), 2)
        std = np.exp(self.log_std_min + 0.5 * (self.log_std_max - self.log_std_min) * (np.tanh(raw) + 1))
        unsquashed = mean + std * noise
        return np.tanh(unsquashed), squashed_log_prob(unsquashed, mean, std)

    def soft_targets(self, params, target_params, next_views, reward, discount, noise):
        """Returns the targets of both Q-functions, `[B]`."""
        temperature, targets = np.exp(params["log_temperature"]), []
        latents, actor_latents = self.critic_latents(target_params, next_views), self.actor_latents(params, next_views)
        for i in range(len(reward)):
            action, log_prob = self.act(params["actor"], actor_latents[i], noise[i])
            value = min(self.q_values(target_params["critic"], latents[i], action)) - temperature * log_prob
            targets.append(reward[i] + discount[i] * value)
        return np.array(targets)

    def critic_losses(self, params, views, actions, targets):
        """Returns the loss of each transition, `[B]`."""
        q = [
            self.q_values(params["critic"], *pair)
            for pair in zip(self.critic_latents(params, views), actions, strict=True)
        ]
        return np.array([sum((value - target) ** 2 for value in pair) for pair, target in zip(q, targets, strict=True)])

    def actor_losses(self, params, views, noise, temperature):
        """Returns the loss of each state and the log-density of its action, both `[B]`."""
        out = []
        for latent, actor_latent, each in zip(
            self.critic_latents(params, views), self.actor_latents(params, views), noise, strict=True
        ):
            action, log_prob = self.act(params["actor"], actor_latent, each)
            out.append((temperature * log_prob - min(self.q_values(params["critic"], latent, action)), log_prob))
        return np.array(out).T

    def temperature_losses(self, log_temperature, log_probs, target_entropy):
        """Returns the loss of each state, `[B]`."""
        return np.array([np.exp(log_temperature) * (-log_prob - target_entropy) for log_prob in log_probs])

    def contrastive_losses(self, params, target_params, views, positive_views):
        """Returns the loss of each anchor, `[B]`."""
        anchors, positives = self.critic_latents(params, views), self.critic_latents(target_params, positive_views)
        return info_nce(anchors, positives, params["contrast"])


def _dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def _mlp(layers, name, x):
    """Applies two hidden layers with ReLU and an output layer."""
    for i in (1, 2):
        x = np.maximum(_dense(layers[f"{name}{i}"], x), 0)
    return _dense(layers[f"{name}3"], x)


def _patch_convolution(layer, image):
    """Applies a convolution whose kernel equals its stride, and ReLU, one output position at a time."""
    kernel, (height, width, _) = layer["kernel"], image.shape
    size = len(kernel)
    out = np.zeros((height // size, width // size, kernel.shape[-1]))
    for i, j in np.ndindex(out.shape[:2]):
        patch = image[i * size : (i + 1) * size, j * size : (j + 1) * size]
        out[i, j] = np.maximum(patch.ravel() @ kernel.reshape(-1, kernel.shape[-1]) + layer["bias"], 0)
    return out
