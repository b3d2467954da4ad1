"""Sources of a language model's batches: prompts to answer, and whole texts to learn from."""

import math
from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from trialfleet.config.grpo import GrpoBaseConfig, LanguageConfig
from trialfleet.errors import UserError
from trialfleet.training.plans import ShuffledPlans
from trialfleet.training.workload import Batch, BatchPlan, Example
from trialfleet.workloads.decoder import PAD
from trialfleet.workloads.decoder.tokenizer import Tokenizer
from trialfleet.workloads.grpo.problems import Problem
from trialfleet.workloads.grpo.tags import answered

PLAIN = 16  # problems from which a text without questions takes as many as it has room for


class Prompts:
    """One split; see `trialfleet.training.workload.Source`. A row is a problem, the same in every epoch."""

    def __init__(self, config: LanguageConfig, split: str, problems: Sequence[Problem], tokenizer: Tokenizer) -> None:
        self._config, self._split, self._problems = config, split, problems
        self._batch = config.training.global_batch if split == "train" else config.training.eval_batch
        self._tokenizer = tokenizer
        self._prompts = [self._prompt(one) for one in self._problems]
        needed, longest = max(map(len, self._prompts)), config.generation.max_prompt_length
        if needed > longest:
            raise UserError(
                f"generation.max_prompt_length: {longest}, but {split} has a prompt of {needed} tokens",
                f"raise it to {needed} or more",
            )

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        rows = len(self._problems)
        if self._split != "train":
            firsts = range(0, rows, self._batch)
            return [BatchPlan(range(first, min(first + self._batch, rows)), 0) for first in firsts]
        examples = self._batches * self._batch
        draw = partial(np.random.default_rng([seed, epoch, 1]).permutation, examples)
        return ShuffledPlans(draw, examples, self._batch, self._bucket(epoch))

    @cached_property
    def _batches(self) -> int:
        """Of an epoch: where more are wanted than the problems fill, they come again."""
        data = self._config.dataset
        wanted = len(self._problems) // self._batch if data.num_batches is None else data.num_batches
        found = math.floor(round(wanted * data.train_fraction, 6))  # .29 of 100 are 29, not 28.999999999999996
        if found == 0:
            raise UserError(
                f"training.global_batch: {self._batch}, but an epoch has {len(self._problems)} problems, of which "
                f"dataset.train_fraction leaves {data.train_fraction}: no batch is full",
                f"make it smaller, or the set of problems larger ({_size_keys(self._config)})",
            )
        return found

    def _bucket(self, epoch: int) -> int:
        return 0

    def example(self, row: int, rng: np.random.Generator) -> Example:
        prompt = self._prompts[row % len(self._prompts)]
        padding = [PAD] * (self._config.generation.max_prompt_length - len(prompt))
        return {"id": np.int32(row), "prompt": np.asarray(padding + prompt, np.int32)}

    def _prompt(self, one: Problem) -> list[int]:
        """The user's turn, and what opens the model's."""
        return self._tokenizer.prompt(f"{self._config.dataset.instruction}{one.question}")

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        """
        Returns:
            id, weight (B,), prompt (B, P) padded on the left.
        """
        return {
            "id": np.asarray([example["id"] for example in examples], np.int32),
            "weight": np.ones(len(examples), np.float32),
            "prompt": np.stack([example["prompt"] for example in examples]),
        }


class Texts(Prompts):
    """Whole texts of the base stage: plain texts in the first epochs, then prompts with their answers."""

    def __init__(self, config: GrpoBaseConfig, split: str, problems: Sequence[Problem], tokenizer: Tokenizer) -> None:
        super().__init__(config, split, problems, tokenizer)
        self._plain_epochs = config.stages.next_token_epochs
        self._length = config.generation.max_prompt_length + config.generation.max_generation_steps
        self._said = [self._tokenizer.completion(answered(one.reasoning, one.answer)) for one in self._problems]
        needed = max(len(prompt) + len(said) for prompt, said in zip(self._prompts, self._said, strict=True))
        epochs = config.training.max_epochs
        if needed > self._length and (epochs is None or epochs > self._plain_epochs):
            raise UserError(
                f"generation.max_prompt_length + max_generation_steps: {self._length}, but a prompt with its answer "
                f"takes {needed} tokens",
                f"raise one of them by {needed - self._length} or more",
            )

    def _bucket(self, epoch: int) -> int:
        """The stage: 0 or 1. Both have the same shapes."""
        return int(epoch >= self._plain_epochs)

    def example(self, row: int, rng: np.random.Generator) -> Example:
        # A few problems in a row, so that a text is about as long as a prompt with its answer.
        return {"id": np.int32(row), "others": rng.integers(0, len(self._problems), PLAIN)}

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        """
        Returns:
            id, weight (B,), tokens (B, L) padded on the left, counted (B, L): 1 where a token is to be learned.
        """
        shape = (len(examples), self._length)
        batch: Batch = {
            "id": np.asarray([example["id"] for example in examples], np.int32),
            "weight": np.ones(len(examples), np.float32),
            "tokens": np.full(shape, PAD, np.int32),
            "counted": np.zeros(shape, np.float32),
        }
        for index, example in enumerate(examples):
            row = int(example["id"]) % len(self._problems)
            read, said = (
                self._plain([row, *example["others"]]) if bucket == 0 else (self._prompts[row], self._said[row])
            )
            batch["tokens"][index, self._length - len(read) - len(said) :] = [*read, *said]
            batch["counted"][index, self._length - len(said) :] = 1
        return batch

    def _plain(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """The first token of a text of several problems, and as many of the others as there is room for."""
        chosen = (self._problems[row] for row in rows)
        text = "".join(f"{one.question} {one.reasoning}\n" for one in chosen)
        first, *rest = self._tokenizer.text(text)[: self._length]
        return [first], rest


def _size_keys(config: LanguageConfig) -> str:
    return "dataset.train_problems" if hasattr(config.dataset, "train_problems") else "dataset.train_path"
