"""Generated sums as prompts with a gold answer."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from trialfleet.config.decoder import Generation
from trialfleet.config.grpo import LanguageConfig, Sums
from trialfleet.errors import UserError
from trialfleet.training.plans import ShuffledPlans
from trialfleet.training.workload import Batch, BatchPlan, Example
from trialfleet.workloads.grpo import tokens

SPLITS = ("train", "val", "test")


class Problem(NamedTuple):
    """A question, a way to its answer, and the answer."""

    question: str
    reasoning: str
    answer: str


class SumProblems:
    """One split; see `trialfleet.training.workload.Source`. A row is a problem, the same in every epoch."""

    def __init__(self, config: LanguageConfig, split: str) -> None:
        self._config, self._split = config, split
        training = config.training
        self._batch = training.global_batch if split == "train" else training.eval_batch
        self._size = config.dataset.train_problems if split == "train" else config.dataset.eval_problems

    def epoch(self, seed: int, epoch: int) -> Sequence[BatchPlan]:
        if self._split != "train":
            firsts = range(0, self._size, self._batch)
            return [BatchPlan(range(first, min(first + self._batch, self._size)), 0) for first in firsts]
        draw = partial(np.random.default_rng([seed, epoch, 1]).permutation, self._size)
        return ShuffledPlans(draw, self._size, self._batch, self._bucket(epoch))

    def _bucket(self, epoch: int) -> int:
        return 0

    def example(self, row: int, rng: np.random.Generator) -> Example:
        one = problem(self._config.dataset, self._split, row)
        prompt = tokens.encode(prompt_text(self._config.dataset, one))
        return {"id": np.int32(row), "prompt": _padded_left(prompt, self._config.generation)}

    def gold(self, row: int) -> str:
        """The answer to the problem of a row. It stays on the host: answers have no common length."""
        return problem(self._config.dataset, self._split, row).answer

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


class SumTexts(SumProblems):
    """Whole texts of the base stage: plain sums in the first epochs, then prompts with their answers."""

    def __init__(self, config: Any, split: str) -> None:
        super().__init__(config, split)
        self._plain_epochs = config.stages.next_token_epochs
        self._length = config.generation.max_prompt_length + config.generation.max_generation_steps
        epochs = config.training.max_epochs
        largest = _problem_of(tuple([config.dataset.max_number] * config.dataset.terms))
        needed = sum(map(len, self._supervised(largest)))
        if needed > self._length and (epochs is None or epochs > self._plain_epochs):
            raise UserError(
                f"generation.max_prompt_length + max_generation_steps: {self._length}, but a prompt with its answer "
                f"takes up to {needed} tokens",
                f"raise one of them by {needed - self._length}",
            )

    def _bucket(self, epoch: int) -> int:
        """The stage: 0 or 1. Both have the same shapes."""
        return int(epoch >= self._plain_epochs)

    def example(self, row: int, rng: np.random.Generator) -> Example:
        one = problem(self._config.dataset, self._split, row)
        # A few sums in a row, so that a text is about as long as a prompt with its answer.
        others = (problem(self._config.dataset, self._split, int(n)) for n in rng.integers(0, self._size, 5))
        plain = "".join(f"{each.reasoning}\n" for each in (one, *others))
        return {"id": np.int32(row), "problem": one, "plain": plain}

    def collate(self, examples: Sequence[Example], bucket: int) -> Batch:
        """
        Returns:
            id, weight (B,), tokens (B, L) padded on the left, counted (B, L): 1 where a token is to be learned.
        """
        length = self._length
        batch: Batch = {
            "id": np.asarray([example["id"] for example in examples], np.int32),
            "weight": np.ones(len(examples), np.float32),
            "tokens": np.zeros((len(examples), length), np.int32),
            "counted": np.zeros((len(examples), length), np.float32),
        }
        for index, example in enumerate(examples):
            if bucket == 0:
                start, rest = [tokens.BOS], tokens.encode(example["plain"])[: length - 1]
            else:
                start, rest = self._supervised(example["problem"])
            batch["tokens"][index, length - len(start) - len(rest) :] = [*start, *rest]
            batch["counted"][index, length - len(rest) :] = 1
        return batch

    def _supervised(self, one: Problem) -> tuple[list[int], list[int]]:
        """A prompt, and the answer that is to be learned."""
        prompt = tokens.encode(prompt_text(self._config.dataset, one))
        return [tokens.BOS, *prompt], [*tokens.encode(completion_text(one)), tokens.END_OF_TURN]


def prompt_text(data: Sums, one: Problem) -> str:
    """The user's turn and the start of the model's, in Gemma's template (without the first token, <bos>)."""
    return f"<start_of_turn>user\n{data.instruction}{one.question}<end_of_turn>\n<start_of_turn>model\n"


def completion_text(one: Problem) -> str:
    """What a model should say, without the end of its turn."""
    return (
        f"{tokens.REASONING}{one.reasoning}{tokens.END_OF_REASONING}{tokens.ANSWER}{one.answer}{tokens.END_OF_ANSWER}"
    )


def problem(data: Sums, split: str, row: int) -> Problem:
    """The problem of a row; if anything is held out, sums of one split are in no other."""
    draw = np.random.Philox(key=[data.split_seed, SPLITS.index(split)], counter=[0, 0, 0, row])
    rng = np.random.Generator(draw)
    while True:
        numbers = tuple(map(int, rng.integers(0, data.max_number + 1, data.terms)))
        if data.held_out == 0 or split_of(data, numbers) == split:
            return _problem_of(numbers)


def _problem_of(numbers: tuple[int, ...]) -> Problem:
    written = "+".join(map(str, numbers))
    return Problem(f"{written}=?", f"{written}={sum(numbers)}", str(sum(numbers)))


def split_of(data: Sums, numbers: tuple[int, ...]) -> str:
    """Which split a sum belongs to, by its numbers in their order."""
    draw = np.random.default_rng([data.split_seed, 4, *numbers]).random()
    return "val" if draw < data.held_out else "test" if draw < 2 * data.held_out else "train"


def _padded_left(prompt: list[int], generation: Generation) -> np.ndarray:
    longest = generation.max_prompt_length
    if len(prompt) + 1 > longest:
        raise UserError(
            f"generation.max_prompt_length: {longest}, but there is a prompt of {len(prompt) + 1} tokens",
            f"raise it to {len(prompt) + 1} or more",
        )
    return np.asarray([tokens.PAD] * (longest - len(prompt) - 1) + [tokens.BOS, *prompt], np.int32)
