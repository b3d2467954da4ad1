"""The workload of speech to text by a decoder: see `trialfleet.workloads.asr.speech`."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.asr_decoder import AsrDecoderConfig
from trialfleet.training import lora
from trialfleet.training.dropout import Dropout
from trialfleet.training.published import PublishedWeights
from trialfleet.training.publishing import Publisher
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
from trialfleet.workloads.asr import samples, speech, spelling
from trialfleet.workloads.asr.export import SpeechPublisher
from trialfleet.workloads.asr.published import EncoderWeights
from trialfleet.workloads.asr.samples import Sample
from trialfleet.workloads.asr.spelling import Told
from trialfleet.workloads.asr.spoken import normalized
from trialfleet.workloads.asr.utterances import Utterances, frames_of
from trialfleet.workloads.decoder import PAD, beam, generation, tokenizer, transformer
from trialfleet.workloads.decoder.generation import Drawn
from trialfleet.workloads.decoder.held_back import Rules
from trialfleet.workloads.decoder.published import DecoderWeights
from trialfleet.workloads.decoder.tokenizer import Tokenizer
from trialfleet.workloads.decoder.unembedding import say

log = logging.getLogger(__name__)

SAMPLES = 20  # recordings shown with each evaluation


class Transcriber(Workload):
    """See `trialfleet.training.workload.Workload`."""

    config: AsrDecoderConfig

    @cached_property
    def tokenizer(self) -> Tokenizer:
        found = tokenizer.of(self.config.model.decoder, self.config.dry_run, "model.decoder")
        if not self.config.dry_run:
            ends = self.config.transcription.eos_tokens
            tokenizer.refuse_no_end(found, ends, "transcription.eos_tokens", "model.decoder")
        return found

    def source(self, split: str) -> Source:
        config = self.config
        if split == "train" and config.model.encoder.weights is None and config.training.init_from is None:
            log.warning("model.encoder.weights: null, so speech is heard by weights that are drawn and never trained")
        return self._utterances(split)

    def _utterances(self, split: str) -> Utterances:
        if split not in self._sources:
            self._sources[split] = Utterances(self.config, split, self.tokenizer)
        return self._sources[split]

    @cached_property
    def _sources(self) -> dict[str, Utterances]:
        return {}

    # ---- parameters ---------------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> tuple[Params, Extra]:
        return speech.init(self.config.model, key), ()

    def axes(self) -> PyTree:
        return speech.axes(self.config.model)

    def group(self, path: str) -> str:
        return path.partition("/")[0]  # encoder, projector, decoder

    def trained(self, path: str) -> bool:
        """The encoder never is; of a decoder with adapters they alone are."""
        part = self.group(path)
        if part != "decoder":
            return part == "projector"
        return self.config.model.decoder.lora_rank is None or lora.is_adapter(path)

    def release_order(self) -> Sequence[str]:
        """The projector learns first, where a schedule says so."""
        return ("decoder",)

    @cached_property
    def _published(self) -> dict[str, EncoderWeights | DecoderWeights]:
        model, found = self.config.model, dict[str, EncoderWeights | DecoderWeights]()
        if model.encoder.weights is not None:
            key = "model.encoder.weights"
            found["encoder"] = EncoderWeights(model.encoder, PublishedWeights(Path(model.encoder.weights), key), key)
        if model.decoder.weights is not None:
            there = PublishedWeights(Path(model.decoder.weights), "model.decoder.weights")
            found["decoder"] = DecoderWeights(model.decoder, there, "model.decoder")
        return found

    def load(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        part, _, own = path.partition("/")
        return self._published[part].read(own, index) if part in self._published else None

    def publisher(self) -> Publisher:
        return SpeechPublisher(self.config.model, self.config.transcription.eos_tokens)

    # ---- training -----------------------------------------------------------------------------------------

    def norms(self, batch: Batch) -> dict[str, jax.Array]:
        return {"tokens": jnp.sum(batch["weight"][:, None] * (batch["tokens"] != PAD))}

    def loss(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        norms: dict[str, jax.Array],
        key: jax.Array,
        hp: Hyperparameters,
    ) -> tuple[jax.Array, Loss]:
        """Nats for each token of the texts, the ends of their turns included; and those of a second loss, weighted."""
        decoder = params["decoder"]
        model, dropout = self.config.model, None
        if model.projector.dropout != 0:
            dropout = Dropout(hp["model.projector.dropout"], jax.random.fold_in(key, 1))
        remat = self.config.training.remat
        told = speech.told(model, params, batch["features"], batch["frames"], remat, dropout)
        logs = self._logs_after(told, decoder, batch["tokens"], hp, key)
        loss = -jnp.sum(batch["weight"][:, None] * logs) / norms["tokens"]
        if model.projector.ctc_weight == 0:
            return loss, Loss(extra, {})
        nats, fits = spelling.nats(told, decoder, batch["tokens"])
        spelled = jnp.sum(batch["weight"] * jnp.where(fits, nats, 0)) / norms["tokens"]
        return loss + hp["model.projector.ctc_weight"] * spelled, Loss(extra, {"ctc": spelled})

    def _logs_after(
        self, told: Told, decoder: Params, tokens: jax.Array, hp: Hyperparameters, key: jax.Array | None = None
    ) -> jax.Array:
        """Log-probability of each token of texts (B, S), after what was told of them; 0 behind their ends.

        Args:
            key: of a training step, for dropout.
        """
        model, remat, read = self.config.model, self.config.training.remat, told.read
        written = transformer.embedded(model.decoder, decoder, tokens[:, :-1])
        if key is not None and model.text_dropout != 0:
            # What was written is seen in part alone, so that the speech must be (Bowman et al. 2016, arXiv:1511.06349).
            own = jax.random.fold_in(key, 0)
            seen = jax.random.bernoulli(own, 1 - hp["model.text_dropout"], written.shape[:2])
            written = written * seen[..., None].astype(written.dtype)
        x = jnp.concatenate([read.astype(written.dtype), written], 1)
        valid = jnp.concatenate([told.there, (tokens[:, :-1] != PAD).astype(jnp.float32)], 1)
        stream = transformer.stream(model.decoder, decoder, x, valid, speech.of_decoder(hp), remat=remat, key=key)
        said = stream[:, read.shape[1] - 1 :]
        return say(said, transformer.unembedding(decoder), tokens).logs

    def flops(self, bucket: int) -> Sequence[Product]:
        """With as many tokens as a text may have, since all are read; what frames spell is not counted."""
        data = self.config.dataset
        return speech.products(self.config.model, frames_of(data.buckets[bucket]), data.max_text_tokens + 1)

    # ---- evaluation ---------------------------------------------------------------------------------------

    def eval_step(self, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Rows:
        """A text of each recording, and the loss of the right one."""
        told, decoder = speech.told(self.config.model, params, batch["features"], batch["frames"]), params["decoder"]
        if self.config.transcription.gather_weights:
            decoder = transformer.gathered(self.config.model.decoder, decoder)
        return {
            "id": batch["id"],
            "weight": batch["weight"],
            "found": self._found(told, decoder, batch, key, hp),
            "loss": -jnp.sum(self._logs_after(told, decoder, batch["tokens"], hp), 1),
            "tokens": jnp.sum(batch["tokens"] != PAD, 1),
        }

    def _found(self, told: Told, decoder: Params, batch: Batch, key: jax.Array, hp: Hyperparameters) -> jax.Array:
        """A text of each recording (B, S): the decoder's, or what the projector spells where that is likelier."""
        written = self._written(told, decoder, batch, key, hp).tokens
        if self.config.transcription.ctc_weight == 0:
            return written
        weight, ends = hp["transcription.ctc_weight"], self.config.transcription.eos_tokens
        spelled = spelling.likeliest(told, decoder, written.shape[1], ends)

        def score(tokens: jax.Array) -> jax.Array:
            nats, fits = spelling.nats(told, decoder, tokens)
            logs = jnp.sum(self._logs_after(told, decoder, tokens, hp), 1)
            return jnp.where(fits, (1 - weight) * logs - weight * nats, -jnp.inf)

        return jnp.where((score(spelled) > score(written))[:, None], spelled, written)

    def _written(self, told: Told, decoder: Params, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Drawn:
        """A text of each recording by the decoder: drawn token by token, or the likeliest that some beams find."""
        model, own, steps = self.config.model, self.config.transcription, self.config.drawn_tokens
        given, there = told.read.astype(transformer.unembedding(decoder).dtype), told.there
        rules = Rules(hp.get("transcription.repetition_penalty"), hp["transcription.min_tokens"], own.no_repeat_ngram)
        if own.beams > 1:
            power = hp["transcription.length_penalty"]
            return beam.likeliest(
                model.decoder,
                decoder,
                given,
                there,
                steps,
                own.eos_tokens,
                own.beams,
                power,
                rules,
                speech.of_decoder(hp),
            )
        return generation.complete(
            model.decoder,
            decoder,
            given,
            steps,
            own.eos_tokens,
            own.top_k,
            hp["transcription.temperature"],
            hp["transcription.top_p"],
            speech.of_decoder(hp),
            generation.keys_of(key, batch["id"]),
            there,
            rules,
        )

    def summarize(self, rows: Rows, split: str) -> Summary:
        """Word and character error rates of the texts that were found, in Whisper's normalised form, and the loss."""
        # Here, since it takes a while and is not needed before the first evaluation.
        from trialfleet.workloads.asr.error_rates import error_rates

        source, counted = self._utterances(split), rows["weight"] > 0
        order: Any = np.argsort(rows["id"], kind="stable")
        order = order[counted[order]]
        said = [normalized(source.text(int(rows["id"][index]))) for index in order]
        read = [normalized(self.tokenizer.decode(rows["found"][index])) for index in order]
        rates, alignments = error_rates(said, read)
        metrics = {**rates, "loss": float(rows["loss"][order].sum() / rows["tokens"][order].sum())}
        shown = [
            Sample(Path(source.path(int(rows["id"][index]))), said[n], read[n], alignments[n])
            for n, index in enumerate(order[:SAMPLES])
        ]
        return Summary(metrics, samples.files(shown, split))
