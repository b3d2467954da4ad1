"""The workload of multi-view foul recognition."""

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.mvfoul import CLASSES, MvfoulConfig, WeightedLoss
from trialfleet.config.mvfoul_models import Mvit, Resnet3d
from trialfleet.training import trees
from trialfleet.training.published import PublishedWeights
from trialfleet.training.workload import (
    Batch,
    Extra,
    Hyperparameters,
    Loss,
    Params,
    Product,
    PyTree,
    Rows,
    Source,
    Summary,
    Workload,
)
from trialfleet.workloads.mvfoul import losses, network, report, scores, torchvision_names
from trialfleet.workloads.mvfoul.clips import QUESTIONS, FoulClips
from trialfleet.workloads.mvfoul.published import BackboneWeights

log = logging.getLogger(__name__)

_COLLAPSED = 0.1  # predictions with less than this share of the largest entropy say hardly more than one class
_SHORT = {"severity": "sev", "action": "action"}  # in the names of metrics
_LEAST = 1e-6  # what is counted in a batch of which no clip could be read


class Mvfoul(Workload):
    """See `trialfleet.training.workload.Workload`."""

    config: MvfoulConfig

    def __init__(self, config: MvfoulConfig) -> None:
        super().__init__(config)
        names = CLASSES[config.dataset.classes]
        self._classes = (len(names.severities), len(names.actions))

    def source(self, split: str) -> Source:
        if split == "train" and self._unsmoothed():
            log.info("loss.label_smoothing: taken as 0, since balanced sampling and class weights are on")
        return self._clips(split)

    def _clips(self, split: str) -> FoulClips:
        if split not in self._sources:
            self._sources[split] = FoulClips(self.config, split)
        return self._sources[split]

    @cached_property
    def _sources(self) -> dict[str, FoulClips]:
        return {}

    @cached_property
    def _shape(self) -> network.Shape:
        return network.Shape(self.config.dataset.frames, self.config.dataset.size, self._classes)

    def init(self, key: jax.Array) -> tuple[Params, Extra]:
        return network.init(self.config.model, self._shape, key)

    def axes(self) -> PyTree:
        return network.axes(self.config.model, self._shape)

    def group(self, path: str) -> str:
        return path.partition("/")[0]  # backbone, heads

    def unit(self, path: str) -> str:
        part, name = path.split("/")[:2]
        return name if part == "backbone" else part  # stem, block0, …, heads

    def release_order(self) -> Sequence[str]:
        return list(reversed(network.units(self.config.model)))

    @cached_property
    def _published(self) -> BackboneWeights | None:
        model, key = self.config.model, "model.weights"
        if not isinstance(model, Resnet3d | Mvit) or model.weights is None:
            return None
        shapes = {path: leaf.shape for path, leaf in network.table(model, self._shape).items()}
        shapes |= {path: leaf.shape for path, leaf in trees.named_leaves(network.stored(model))}
        names = {f"backbone/{path}": array for path, array in torchvision_names.of(model).items()}
        there = PublishedWeights(Path(model.weights), key)
        return BackboneWeights(there, names, shapes, torchvision_names.HEADS, key)

    def load(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        there = self._published
        return there.read(path, index) if there is not None and path in there else None

    def load_extra(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        return self.load(path, index)

    def norms(self, batch: Batch) -> dict[str, jax.Array]:
        counted = {}
        for question in QUESTIONS:
            one, other = (
                losses.counted(self.config.loss, batch[name], batch[f"{question}_weights"])
                for name in (question, f"other_{question}")
            )
            counted[question] = jnp.sum(batch["weight"] * (batch["share"] * one + (1 - batch["share"]) * other))
        pairs = jnp.sum(batch["weight"][:, None, None] * losses.pairs(batch["mask"]))
        views = jnp.sum(batch["mask"])
        least = {name: jnp.maximum(value, _LEAST) for name, value in counted.items()}
        return {**least, "pairs": jnp.maximum(pairs, 1), "views": jnp.maximum(views, 1)}

    def flops(self, bucket: int) -> Sequence[Product]:
        data = self.config.dataset
        return network.products(self.config.model, self._shape, data.max_views)

    def loss(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        norms: dict[str, jax.Array],
        key: jax.Array,
        hp: Hyperparameters,
    ) -> tuple[jax.Array, Loss]:
        """The weighted sum of both questions' losses, and of what single views disagree in."""
        config, weight, share = self.config.loss, batch["weight"], batch["share"]
        model, remat = self.config.model, self.config.training.remat
        held = {f"on.{unit}": jnp.zeros(()) for unit in self._held}
        seen = network.scores(
            model, params, extra, batch["video"], batch["mask"], {**hp, **held} if held else hp, key, remat
        )
        smoothing = 0.0 if self._unsmoothed() else hp["loss.label_smoothing"]

        def of(question: str, labels: str) -> jax.Array:
            per_example = losses.severity_loss if question == "severity" else losses.action_loss
            logits, weights = getattr(seen.joined, question), batch[f"{question}_weights"]
            return per_example(config, logits, batch[labels], weights, smoothing, hp)

        severity, action = (
            jnp.sum(weight * (share * of(question, question) + (1 - share) * of(question, f"other_{question}")))
            / norms[question]
            for question in QUESTIONS
        )
        total = hp["loss.severity_weight"] * severity + hp["loss.action_weight"] * action
        if config.view_consistency != 0:
            apart = sum(losses.disagreement(logits, batch["mask"]) for logits in seen.single)
            total += hp["loss.view_consistency"] * jnp.sum(weight * apart) / norms["pairs"]
        metrics = {"sev_loss": severity, "action_loss": action}
        if self.config.model.aggregator == "moe":
            metrics["expert_load"] = seen.load * jnp.sum(batch["mask"]) / norms["views"]
            if config.expert_load != 0:
                total += hp["loss.expert_load"] * metrics["expert_load"]
        return total, Loss(seen.extra, metrics)

    def eval_step(self, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Rows:
        """What is predicted for each clip, and the plain cross-entropy of both questions together."""
        seen = network.scores(self.config.model, params, extra, batch["video"], batch["mask"], hp, None)
        entropy = sum(
            losses.cross_entropy(logits, batch[name], jnp.ones(()), 0.0)
            for name, logits in seen.joined._asdict().items()
        )
        return {
            "id": batch["id"],
            "weight": batch["weight"],
            "loss": entropy,
            "severity": batch["severity"].astype(jnp.int8),
            "action": batch["action"].astype(jnp.int8),
            "severity_said": jnp.argmax(seen.joined.severity, -1).astype(jnp.int8),
            "action_said": jnp.argmax(seen.joined.action, -1).astype(jnp.int8),
        }

    def summarize(self, rows: Rows, split: str) -> Summary:
        """Accuracy, balanced accuracy, weighted F1 and confusion of both questions; the official score."""
        metrics, tables = {"loss": float(rows["loss"].mean())}, dict[str, np.ndarray]()
        for question, count in zip(QUESTIONS, self._classes, strict=True):
            true, said = (rows[name].astype(np.int64) for name in (question, f"{question}_said"))
            short, table = _SHORT[question], scores.confusion(true, said, count)
            tables[question] = table
            metrics |= {
                f"{short}_acc": scores.accuracy(table),
                f"{short}_balanced_acc": scores.balanced_accuracy(table),
                f"{short}_f1": scores.weighted_f1(table),
                f"{short}_entropy": scores.prediction_entropy(table),
            }
            if metrics[f"{short}_entropy"] < _COLLAPSED:
                log.warning("%s: predictions of %s have collapsed to hardly more than one class", split, question)
        metrics["balanced_acc"] = (metrics["sev_balanced_acc"] + metrics["action_balanced_acc"]) / 2
        return Summary(metrics, report.files(self._clips(split), split, rows, tables))

    @cached_property
    def _held(self) -> list[str]:
        """Units of which nothing is ever trained: their batch norm uses stored statistics."""
        never = [re.compile(pattern) for pattern in self.config.freezing.never]
        paths = network.table(self.config.model, self._shape)
        trained = {self.unit(path) for path in paths if not any(pattern.fullmatch(path) for pattern in never)}
        return sorted({self.unit(path) for path in paths} - trained)

    def _unsmoothed(self) -> bool:
        """Smoothing on top of balanced sampling and class weights would leave hardly any gradient."""
        weighted = isinstance(self.config.loss, WeightedLoss) and self.config.loss.class_weights != "none"
        return weighted and self.config.class_balance.name != "none"
