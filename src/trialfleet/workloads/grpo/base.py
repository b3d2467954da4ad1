"""The base stage: a language model that knows worked problems, and the format in which answers are wanted."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from trialfleet.config.grpo import GrpoBaseConfig
from trialfleet.training.workload import Batch, Extra, Hyperparameters, Loss, Params, Product, Source
from trialfleet.workloads.decoder import PAD, transformer
from trialfleet.workloads.decoder.unembedding import say
from trialfleet.workloads.grpo.language import Language
from trialfleet.workloads.grpo.prompts import Texts


class GrpoBase(Language):
    """See `trialfleet.training.workload.Workload`."""

    config: GrpoBaseConfig

    def source(self, split: str) -> Source:
        if split != "train":
            return super().source(split)
        return Texts(self.config, split, self.problems(split), self.tokenizer)

    def norms(self, batch: Batch) -> dict[str, jax.Array]:
        return {"tokens": jnp.sum(batch["weight"][:, None] * batch["counted"])}

    def flops(self, bucket: int) -> Sequence[Product]:
        own = self.config.generation
        read = own.max_prompt_length + own.max_generation_steps - 1  # behind the last token nothing is said
        return transformer.products(self.config.model, read, read)

    def loss(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        norms: dict[str, jax.Array],
        key: jax.Array,
        hp: Hyperparameters,
    ) -> tuple[jax.Array, Loss]:
        """Nats for each token that is to be learned."""
        sequence = batch["tokens"]
        valid = (sequence != PAD).astype(jnp.float32)
        remat = self.config.training.remat
        x = transformer.stream(self.config.model, params, sequence[:, :-1], valid[:, :-1], hp, remat=remat)
        logs = say(x, transformer.unembedding(params), sequence[:, 1:]).logs
        counted = batch["weight"][:, None] * batch["counted"][:, 1:]
        return -jnp.sum(counted * logs) / norms["tokens"], Loss(extra, {})
