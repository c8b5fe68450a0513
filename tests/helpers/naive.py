"""Slow twins of what the library does fast: plain Python and NumPy, one element at a time."""

import numpy as np


class NaiveReplay:
    """A list of everything ever written, in one lane for each environment, searched from scratch at each question.

    Args:
      capacity: times that a ring of the same size remembers.
      stack: frames in an observation; 0 for rows that hold latents.
    """

    def __init__(self, *, capacity, num_envs, stack, n_step, discount):
        self.capacity, self.stack, self.n_step, self.discount = capacity, stack, n_step, discount
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
        """Returns the stack, newest last, or the row's latents; None where a needed frame is gone."""
        lane = self.lanes[env]
        if not self.stack:
            return lane[time]["observation"]
        frames, cut = [], False
        for age in range(self.stack):
            if cut:
                frames.append(np.zeros_like(lane[time]["observation"]))
                continue
            if time - age < self.oldest():
                return None
            frames.append(lane[time - age]["observation"])
            cut = lane[time - age]["first"]
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
