"""The same perceptron as a module of flax.nnx (pip install 'trialfleet[nnx]'): its state is the parameters."""

from digits_mlp import DigitsMlp
from flax import nnx
from jax import numpy as jnp
from jax import random
from jax.nn import log_softmax, relu


class Network(nnx.Module):
    def __init__(self, width, rngs):
        self.hidden = nnx.Linear(64, width, rngs=rngs)
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x, chances, dropout):
        h = relu(self.hidden(x))
        return self.out(jnp.where(chances >= dropout, h / (1 - dropout), 0))


class DigitsNnx(DigitsMlp):
    def network(self, key):
        return Network(self.config.model.width, nnx.Rngs(key))

    def init(self, key):
        return nnx.state(self.network(key), nnx.Param)

    def judged(self, params, batch, key, dropout):
        network = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: self.network(0))), params)
        chances = random.uniform(key, (len(batch["x"]), self.config.model.width))
        logs = log_softmax(network(batch["x"], chances, dropout))
        return -jnp.take_along_axis(logs, batch["label"][:, None], 1)[:, 0], logs.argmax(1) == batch["label"]
