"""A perceptron that reads scikit-learn's digits: a whole workload. docs/own_workload.md goes through it."""

import jax
import jax.numpy as jnp
import numpy as np
from pydantic.dataclasses import dataclass
from sklearn.datasets import load_digits

from trialfleet.config import Config
from trialfleet.config.traced import STRICT, Traced
from trialfleet.training.arrays import ArraySource
from trialfleet.training.workload import Workload


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Perceptron:
    width: int
    dropout: Traced[float]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DigitsConfig(Config):
    METRICS = frozenset({"val/accuracy", "val/loss"})
    model: Perceptron


class DigitsMlp(Workload):
    def source(self, split):
        images, labels = load_digits(return_X_y=True)
        tenth = np.arange(len(labels)) % 10
        part = {"train": tenth > 1, "val": tenth == 0, "test": tenth == 1}[split]
        return ArraySource({"x": images[part] / 16, "label": labels[part]}, split, self.config.training)

    def init(self, key):
        first, last, width = *jax.random.split(key), self.config.model.width
        hidden = {"w": jax.random.normal(first, (64, width)) / 8, "b": jnp.zeros(width)}
        return {"hidden": hidden, "out": {"w": jax.random.normal(last, (width, 10)) / width**0.5, "b": jnp.zeros(10)}}

    def loss(self, params, extra, batch, norms, key, hp):
        losses, _ = self.judged(params, batch, key, hp["model.dropout"])
        return jnp.sum(losses * batch["weight"]) / norms["weight"]

    def eval_step(self, params, extra, batch, key, hp):
        losses, right = self.judged(params, batch, key, 0.0)
        return {"accuracy": right, "loss": losses}

    def judged(self, params, batch, key, dropout):
        h = jax.nn.relu(batch["x"] @ params["hidden"]["w"] + params["hidden"]["b"])
        h = jnp.where(jax.random.uniform(key, h.shape) >= dropout, h / (1 - dropout), 0)
        logs = jax.nn.log_softmax(h @ params["out"]["w"] + params["out"]["b"])
        return -jnp.take_along_axis(logs, batch["label"][:, None], 1)[:, 0], logs.argmax(1) == batch["label"]
