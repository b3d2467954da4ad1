"""From what the encoder hears to what the decoder reads, against the same in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.workloads.asr.test_transcriber import config
from trialfleet.training.dropout import Dropout
from trialfleet.workloads.asr import encoder, speech

LENGTHS = np.asarray([9, 20])


def heard(kernel: int) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """A model, its parameters, two spectrograms, and what its encoder hears in them, with zeros behind."""
    model = config("speech.jsonl", f"model.projector.kernel_size={kernel}").model
    params = speech.init(model, jax.random.key(0))
    features = np.random.default_rng(0).normal(size=(2, 20, model.encoder.bands)).astype(np.float32)
    valid = np.arange(10) < (LENGTHS[:, None] + 1) // 2
    found = np.asarray(encoder.encode(model.encoder, params["encoder"], features, jnp.asarray(valid)))
    return model, params, features, found * valid[..., None]


@pytest.mark.parametrize("rate", [None, 0.5])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_frame_is_projected_with_those_around_it(kernel, rate):
    """With dropout neither layer sees all of what it is given."""
    model, params, features, found = heard(kernel)
    dropout = None if rate is None else Dropout(jnp.asarray(rate), jax.random.key(1))

    def seen(name: str, x: np.ndarray) -> np.ndarray:
        return x if dropout is None else np.asarray(dropout.dropped(name, jnp.asarray(x, jnp.float32)))

    own = {name: np.asarray(leaf, np.float64) for name, leaf in params["projector"].items()}
    stacked = found.reshape(2, 5, -1)
    x = seen("up", stacked / np.sqrt((stacked**2).mean(-1, keepdims=True) + speech.EPSILON) * own["norm"])
    around = np.pad(x, ((0, 0), (kernel // 2, kernel // 2), (0, 0)))
    up = own["up"].reshape(kernel, x.shape[2], -1)
    first = sum(around[:, tap : tap + 5] @ up[tap] for tap in range(kernel)) + own["up_b"]
    wanted = seen("down", np.asarray(jax.nn.gelu(first))) @ own["down"] + own["down_b"]
    told = speech.told(model, params, features, jnp.asarray(LENGTHS), dropout=dropout)
    np.testing.assert_allclose(told.frames, wanted, atol=1e-5)
    assert told.there.tolist() == [[1, 1, 1, 1, 0, 0, 1], [1] * 7]  # marks around three frames and five
