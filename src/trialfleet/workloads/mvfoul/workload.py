"""The workload of multi-view foul recognition."""

import logging
from collections.abc import Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.mvfoul import CLASSES, MvfoulConfig, WeightedLoss
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
from trialfleet.workloads.mvfoul import losses, report, resnet3d, scores
from trialfleet.workloads.mvfoul.clips import QUESTIONS, FoulClips

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

    def init(self, key: jax.Array) -> tuple[Params, Extra]:
        return resnet3d.init(self.config.model, self.config.dataset.frames, self._classes, key)

    def axes(self) -> PyTree:
        return resnet3d.axes(self.config.model)

    def group(self, path: str) -> str:
        return path.partition("/")[0]  # backbone, heads

    def unit(self, path: str) -> str:
        part, name = path.split("/")[:2]
        return name if part == "backbone" else part  # stem, stage0, …, heads

    def release_order(self) -> Sequence[str]:
        stages = len(self.config.model.widths)
        return [*(f"stage{n}" for n in reversed(range(stages))), "stem"]

    def norms(self, batch: Batch) -> dict[str, jax.Array]:
        counted = {}
        for question in QUESTIONS:
            one, other = (
                losses.counted(self.config.loss, batch[name], batch[f"{question}_weights"])
                for name in (question, f"other_{question}")
            )
            counted[question] = jnp.sum(batch["weight"] * (batch["share"] * one + (1 - batch["share"]) * other))
        pairs = jnp.sum(batch["weight"][:, None, None] * losses.pairs(batch["mask"]))
        return {**{name: jnp.maximum(value, _LEAST) for name, value in counted.items()}, "pairs": jnp.maximum(pairs, 1)}

    def flops(self, bucket: int) -> Sequence[Product]:
        data = self.config.dataset
        return resnet3d.products(self.config.model, data.max_views, data.frames, data.size)

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
        seen = resnet3d.scores(
            self.config.model, params, extra, batch["video"], batch["mask"], hp, key, self.config.training.remat
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
        return total, Loss(seen.extra, {"sev_loss": severity, "action_loss": action})

    def eval_step(self, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Rows:
        """What is predicted for each clip, and the plain cross-entropy of both questions together."""
        seen = resnet3d.scores(self.config.model, params, extra, batch["video"], batch["mask"], hp, None)
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

    def _unsmoothed(self) -> bool:
        """Smoothing on top of balanced sampling and class weights would leave hardly any gradient."""
        weighted = isinstance(self.config.loss, WeightedLoss) and self.config.loss.class_weights != "none"
        return weighted and self.config.class_balance.name != "none"
