"""Both forms of a convolution over time are the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trialfleet.training import convolution


@pytest.mark.parametrize(
    ("shape", "taps", "stride", "dilation"),
    [
        pytest.param((2, 9, 4), 3, 1, 1, marks=pytest.mark.slow),
        ((2, 9, 4), 5, 1, 2),
        ((2, 8, 3, 5, 4), 3, 2, 1),
        pytest.param((1, 7, 2, 2, 3), 1, 2, 1, marks=pytest.mark.slow),
    ],
)
def test_the_product_is_the_convolution(shape, taps, stride, dilation):
    one, two = jax.random.split(jax.random.key(0))
    x, weight = jax.random.normal(one, shape), jax.random.normal(two, (taps, shape[-1], 6))

    def form(convolve):
        def total(x, weight):
            y = convolve(x, weight, stride, dilation)
            return jnp.sum(jnp.sin(y)), y

        return jax.value_and_grad(total, (0, 1), has_aux=True)(x, weight)

    ((_, y), gradients), ((_, other), others) = map(form, (convolution._as_product, convolution._as_convolution))
    assert y.shape == other.shape == (shape[0], -(-shape[1] // stride), *shape[2:-1], 6)
    np.testing.assert_allclose(y, other, atol=1e-5)
    for gradient, another in zip(gradients, others, strict=True):
        np.testing.assert_allclose(gradient, another, atol=1e-4)
