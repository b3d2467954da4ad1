"""What the base stage and reinforcement learning have in common: the model, its completions, their scores."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.grpo import LanguageConfig
from trialfleet.training.published import PublishedWeights
from trialfleet.training.publishing import Publisher
from trialfleet.training.workload import Batch, Extra, Hyperparameters, Params, PyTree, Rows, Source, Summary, Workload
from trialfleet.workloads.decoder import generation, tokenizer, transformer
from trialfleet.workloads.decoder.export import DecoderPublisher
from trialfleet.workloads.decoder.published import DecoderWeights
from trialfleet.workloads.decoder.tokenizer import Tokenizer
from trialfleet.workloads.grpo import rewards, scores
from trialfleet.workloads.grpo.problems import Problem, of_split
from trialfleet.workloads.grpo.prompts import Prompts
from trialfleet.workloads.grpo.scores import Sample


class Language(Workload):
    """A language model, evaluated by the completions that it draws."""

    config: LanguageConfig

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__(config)
        self._problems: dict[str, Sequence[Problem]] = {}

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of a split, read or generated once."""
        if split not in self._problems:
            rewards.check(self.config.rewards)
            self._problems[split] = of_split(self.config.dataset, split)
        return self._problems[split]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's; a dry run, which asks for shapes alone, does without."""
        found = tokenizer.of(self.config.model, self.config.dry_run)
        if not self.config.dry_run:
            tokenizer.refuse_no_end(found, self.config.generation.eos_tokens, "generation.eos_tokens")
        return found

    def source(self, split: str) -> Source:
        return Prompts(self.config, split, self.problems(split), self.tokenizer)

    def init(self, key: jax.Array) -> tuple[Params, Extra]:
        return transformer.init(self.config.model, key), ()

    @cached_property
    def _published(self) -> DecoderWeights | None:
        model = self.config.model
        if model.weights is None:
            return None
        return DecoderWeights(model, PublishedWeights(Path(model.weights), "model.weights"))

    def load(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        return None if self._published is None else self._published.read(path, index)

    def publisher(self) -> Publisher:
        return DecoderPublisher(self.config.model, "model", self.config.generation.eos_tokens)

    def axes(self) -> PyTree:
        return transformer.axes(self.config.model)

    def group(self, path: str) -> str:
        return "embedder" if path.startswith(("embedder", "unembedder")) else "layers"

    def eval_step(self, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Rows:
        """`evaluation.num_passes` completions of each prompt (E, passes, S)."""
        passes, examples = self.config.evaluation.num_passes, len(batch["prompt"])
        if self.config.generation.gather_weights:
            params = transformer.gathered(self.config.model, params)
        drawn = generation.complete(
            self.config.model,
            params,
            batch["prompt"],
            self.config.generation.max_generation_steps,
            self.config.generation.eos_tokens,
            self.config.evaluation.top_k,
            hp["evaluation.temperature"],
            hp["evaluation.top_p"],
            hp,
            generation.keys_of(key, jnp.repeat(batch["id"], passes) * passes + jnp.tile(jnp.arange(passes), examples)),
            unstacked=generation.unstacks(self.config.generation),
        )
        return {
            "prompt": batch["prompt"],
            "drawn": drawn.tokens.reshape(examples, passes, -1),
            "length": jnp.sum(drawn.counted, 1).reshape(examples, passes),
            "truncated": drawn.truncated.reshape(examples, passes),
        }

    def summarize(self, rows: Rows, split: str) -> Summary:
        """See `trialfleet.workloads.grpo.scores`; the file is a table of the first problems' completions."""
        order: Any = np.argsort(rows["id"], kind="stable")
        problems = self.problems(split)
        samples = []
        for index in order:
            one = problems[int(rows["id"][index]) % len(problems)]
            samples.append(
                Sample(one.question, one.answer, [self.tokenizer.decode(drawn) for drawn in rows["drawn"][index]])
            )
        metrics = {
            **scores.of(samples, self.config.rewards),
            "completion_length": float(rows["length"].mean()),
            "truncated": float(rows["truncated"].mean()),
        }
        return Summary(metrics, {"samples.csv": scores.table(samples, self.config.rewards)})
