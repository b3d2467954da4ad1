"""The workload of speech to text."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.asr import AsrConfig
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
from trialfleet.workloads.asr import ctc, text
from trialfleet.workloads.asr.digits import DigitStrings

FEATURES = 13  # coefficients of a frame
SAMPLES = 20  # examples shown with each evaluation


class Asr(Workload):
    """See `trialfleet.training.workload.Workload`."""

    config: AsrConfig

    def source(self, split: str) -> Source:
        training = self.config.training
        batch = training.global_batch if split == "train" else training.eval_batch
        return DigitStrings(self.config.dataset, batch, split)

    def init(self, key: jax.Array) -> tuple[Params, Extra]:
        return ctc.init(self.config.model, FEATURES, key), ()

    def axes(self) -> PyTree:
        return ctc.axes(self.config.model)

    def group(self, path: str) -> str:
        return path.partition("/")[0]  # encoder, head

    def norms(self, batch: Batch) -> dict[str, jax.Array]:
        return {"labels": jnp.sum(batch["weight"] * batch["label_count"])}

    def loss(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        norms: dict[str, jax.Array],
        key: jax.Array,
        hp: Hyperparameters,
    ) -> tuple[jax.Array, Loss]:
        """Nats for each character of the global batch."""
        losses = self._losses(self._logits(params, batch, hp, key), batch)
        return jnp.sum(batch["weight"] * losses) / norms["labels"], Loss(extra, {})

    def eval_step(self, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Rows:
        """The best path of each example, frame by frame, and its loss."""
        scores = self._logits(params, batch, hp, None)
        return {
            "id": batch["id"],
            "weight": batch["weight"],
            "loss": self._losses(scores, batch),
            "path": jnp.argmax(scores, -1).astype(jnp.int8),
            "frame_count": batch["frame_count"],
            "labels": batch["labels"].astype(jnp.int8),
            "label_count": batch["label_count"],
        }

    def summarize(self, rows: Rows, split: str) -> Summary:
        """Word and character error rate of what was read out, and the loss in nats a character."""
        import jiwer  # here, since it is not needed before the first evaluation

        said = [text.decode(row[:count]) for row, count in zip(rows["labels"], rows["label_count"], strict=True)]
        read = [text.collapse(row[:count]) for row, count in zip(rows["path"], rows["frame_count"], strict=True)]
        words, characters = jiwer.process_words(said, read), jiwer.process_characters(said, read)
        return Summary(
            {"wer": words.wer, "cer": characters.cer, "loss": float(rows["loss"].sum() / rows["label_count"].sum())},
            {"samples.txt": _samples(rows["id"], said, read)},
        )

    def flops(self, bucket: int) -> Sequence[Product]:
        return ctc.products(self.config.model, FEATURES, bucket)

    def _logits(self, params: Params, batch: Batch, hp: Hyperparameters, key: jax.Array | None) -> jax.Array:
        remat = self.config.training.remat
        return ctc.logits(self.config.model, params, batch["frames"], batch["frame_count"], hp, key, remat)

    def _losses(self, scores: jax.Array, batch: Batch) -> jax.Array:
        return ctc.losses(scores, batch["frame_count"], batch["labels"], batch["label_count"])


def _samples(ids: np.ndarray, said: list[str], read: list[str]) -> bytes:
    order: Any = np.argsort(ids, kind="stable")[:SAMPLES]
    lines = [f"{'ok ' if said[i] == read[i] else 'bad'}  {said[i]!r} read as {read[i]!r}" for i in order]
    return ("\n".join(lines) + "\n").encode()
