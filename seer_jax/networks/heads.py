"""Heads on latents: the noisy dueling C51 head of Rainbow, the policy and the twin Q-function of SAC.

Noise is an argument, one vector of standard normals for a whole head. The caller decides which passes share it, and one
large draw costs far less than many small ones.
"""

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import platforms
from seer_jax.networks.initializers import fan_in_uniform


def draw_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns factors of the rows and columns of a noisy kernel: f(x) = sgn(x) sqrt|x| of standard normals."""
    return _scale(jax.random.normal(key, shape))


def draw_noises(keys: jax.Array, size: int) -> jax.Array:
    """Returns `[K, size]`, row i being `draw_noise(keys[i], (size,))`, from one draw of random bits."""
    # The uniform numbers and the function of them that `jax.random.normal` uses, apart: XLA:CPU would evaluate the
    # latter for each entry of each kernel that the noise perturbs.
    low = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (size,), minval=low, maxval=np.float32(1)))(keys)
    return platforms.map_apart(lambda x: _scale(np.float32(np.sqrt(2)) * jax.lax.erf_inv(x)), uniform)


def _scale(normal: jax.Array) -> jax.Array:
    return jnp.sign(normal) * jnp.sqrt(jnp.abs(normal))


class NoisyDense(nn.Module):
    """A dense layer with factorised Gaussian noise, https://arxiv.org/abs/1706.10295, equation 10.

    Attributes:
      features: outputs.
      noise_std: initial standard deviation, before it is divided by the square root of the number of inputs.
    """

    features: int
    noise_std: float

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array | None) -> jax.Array:
        """Maps `[..., inputs]` to `[..., features]`.

        Args:
          x: inputs.
          noise: standard normals, `[inputs + features]` for one perturbation that all rows of x share, or
            `[B, inputs + features]` for a separate one for each row; None uses the means only.
        """
        inputs = x.shape[-1]
        mean_init = fan_in_uniform(inputs)
        kernel = self.param("kernel", mean_init, (inputs, self.features))
        bias = self.param("bias", mean_init, (self.features,))
        kernel_std_init = nn.initializers.constant(self.noise_std * inputs**-0.5)
        bias_std_init = nn.initializers.constant(self.noise_std * self.features**-0.5)
        kernel_std = self.param("kernel_std", kernel_std_init, (inputs, self.features))
        bias_std = self.param("bias_std", bias_std_init, (self.features,))
        if noise is None:
            return platforms.product(x, kernel) + bias
        eps_in, eps_out = noise[..., :inputs], noise[..., inputs:]
        if noise.ndim == 1:
            # One perturbed kernel and one product: half the FLOPs of two products.
            kernel = kernel + kernel_std * jnp.outer(eps_in, eps_out)
            return platforms.product(x, kernel) + bias + bias_std * eps_out
        # A perturbed kernel for each row would take more memory and time than the two products.
        return platforms.product(x, kernel) + bias + (platforms.product(x * eps_in, kernel_std) + bias_std) * eps_out


class DuelingC51(nn.Module):
    """Logits of the return distribution of each action from separate value and advantage streams.

    Attributes:
      num_actions: A.
      num_atoms: atoms of the distribution.
      hidden: width of each stream.
      noise_std: initial standard deviation of the noisy layers.
    """

    num_actions: int
    num_atoms: int
    hidden: int
    noise_std: float

    def noise_sizes(self, latent_size: int) -> tuple[int, int, int, int]:
        """Returns the numbers of normals of the four layers: value hidden, value, advantage hidden, advantage."""
        first = latent_size + self.hidden
        return first, self.hidden + self.num_atoms, first, self.hidden + self.num_actions * self.num_atoms

    @nn.compact
    def __call__(self, latent: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """Maps `[..., L]` latents to `[..., num_actions, num_atoms]` logits.

        Args:
          latent: latents.
          noise: `[sum(noise_sizes(L))]` standard normals for one perturbation that all latents share, or
            `[B, sum(noise_sizes(L))]` for a separate one for each latent; None uses the means only.
        """
        if noise is None:
            layer_noise = (None,) * 4
        else:
            layer_noise = jnp.split(noise, np.cumsum(self.noise_sizes(latent.shape[-1]))[:-1], axis=-1)

        def stream(name: str, outputs: int, hidden_noise, noise) -> jax.Array:
            hidden = nn.relu(NoisyDense(self.hidden, self.noise_std, name=f"{name}_hidden")(latent, hidden_noise))
            out = NoisyDense(outputs * self.num_atoms, self.noise_std, name=name)(hidden, noise)
            return out.reshape(*out.shape[:-1], outputs, self.num_atoms)

        value = stream("value", 1, *layer_noise[:2])
        advantage = stream("advantage", self.num_actions, *layer_noise[2:])
        return value + advantage - advantage.mean(axis=-2, keepdims=True)


def _orthogonal_mlp(x: jax.Array, hidden: int, outputs: int, name: str) -> jax.Array:
    """Applies two hidden layers with ReLU and an output layer inside a compact module."""
    for i, width in enumerate((hidden, hidden, outputs)):
        x = nn.relu(x) if i else x
        x = nn.Dense(width, kernel_init=nn.initializers.orthogonal(), name=f"{name}{i + 1}")(x)
    return x


class TwinQ(nn.Module):
    """Two Q-functions of latents and continuous actions.

    Attributes:
      hidden: width of both hidden layers.
    """

    hidden: int

    @nn.compact
    def __call__(self, latent: jax.Array, action: jax.Array) -> jax.Array:
        """Maps `[B, L]` latents and `[B, A]` actions to `[B, 2]` values."""
        x = jnp.concatenate([latent, action], axis=-1)
        return jnp.concatenate([_orthogonal_mlp(x, self.hidden, 1, name) for name in ("q1_", "q2_")], axis=-1)


class GaussianPolicy(nn.Module):
    """A diagonal Gaussian squashed into `(-1, 1)` by tanh (Haarnoja et al. 2018, appendix C).

    Attributes:
      action_size: A.
      hidden: width of both hidden layers.
      log_std_min: lower bound of the log standard deviation before squashing.
      log_std_max: upper bound of it.
    """

    action_size: int
    hidden: int
    log_std_min: float
    log_std_max: float

    @nn.compact
    def __call__(self, latent: jax.Array) -> distrax.Distribution:
        """Maps `[B, L]` latents to a distribution over `[B, A]` actions."""
        out = _orthogonal_mlp(latent, self.hidden, 2 * self.action_size, "policy")
        mean, raw = jnp.split(out, 2, axis=-1)
        # Tanh keeps a gradient where clipping would have none.
        half_range = 0.5 * (self.log_std_max - self.log_std_min)
        std = jnp.exp(self.log_std_min + half_range * (jnp.tanh(raw) + 1.0))
        return distrax.Transformed(distrax.MultivariateNormalDiag(mean, std), distrax.Block(distrax.Tanh(), 1))
