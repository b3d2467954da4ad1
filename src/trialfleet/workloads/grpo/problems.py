"""Problems with a right answer: which there are, and which split each belongs to.

A problem belongs to the split that its question decides, so that none is evaluated that is trained on, however often a
generator draws it or a file has it.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from trialfleet.config.grpo import Gsm8k, Problems, ReasoningGym, Sums
from trialfleet.errors import UserError
from trialfleet.workloads.grpo import files, gym
from trialfleet.workloads.held_out import SPLITS, split_of

FEWEST = 1000  # problems in a row of which none is of a split, until it is taken for empty


class Problem(NamedTuple):
    """A question, a way to its answer, and the answer."""

    question: str
    reasoning: str
    answer: str


def of_split(data: Problems, split: str) -> Sequence[Problem]:
    """The problems of a split, the same each time. Generated ones: as many as an epoch or an evaluation has.

    Raises:
        UserError: there are none, or they cannot be read; it names the key of the config.
    """
    if isinstance(data, Gsm8k):
        return _of_files(data, split)
    wanted = data.train_problems if split == "train" else data.eval_problems
    return tuple(islice(_generated(data, split), wanted))


def _generated(data: Sums | ReasoningGym, split: str) -> Iterator[Problem]:
    """Problems without end, those of other splits left out; without anything held out each split draws its own."""
    others = 0
    draw = sums_of(data, split) if isinstance(data, Sums) else gym.problems(data, SPLITS.index(split))
    for number, (question, reasoning, answer) in enumerate(draw, 1):
        if data.held_out == 0 or split_of(question, data.split_seed, data.held_out) == split:
            others = 0
            yield Problem(question, reasoning, answer)
        elif (others := others + 1) == FEWEST:
            raise UserError(
                f"dataset.held_out: {data.held_out}, and none of {number} problems in a row is left for {split}",
                "raise it, or make the problems more various",
            )


def sums_of(data: Sums, split: str) -> Iterator[Problem]:
    """Sums without end."""
    rng = np.random.Generator(np.random.Philox(key=[data.split_seed, SPLITS.index(split)]))
    while True:
        yield sum_of(data, tuple(map(int, rng.integers(0, data.max_number + 1, data.terms))))


def sum_of(data: Sums, terms: Sequence[int]) -> Problem:
    """A sum, and how it is worked out: 17+85 by columns is 7+5=12, 1+8+1=10."""
    written, result = "+".join(map(str, terms)), sum(terms)
    worked = f"{written}={result}" if data.worked == "whole" else ",".join(_columns(terms))
    return Problem(f"{written}=?", worked, str(result))


def _columns(terms: Sequence[int]) -> Iterator[str]:
    carried = 0
    for column in range(max(len(str(term)) for term in terms)):
        digits = [str(term // 10**column % 10) for term in terms if term >= 10**column or column == 0]
        total = sum(map(int, digits)) + carried
        yield "+".join([*digits, *([str(carried)] if carried else [])]) + f"={total}"
        carried = total // 10


def _of_files(data: Gsm8k, split: str) -> Sequence[Problem]:
    """The rows of a file that belong to a split; of the file for training those that are in no evaluation."""
    if split == "test" and data.test_path is not None:
        return tuple(Problem(*row) for row in files.rows("dataset.test_path", data.test_path))
    tested = set() if data.test_path is None else {row[0] for row in files.rows("dataset.test_path", data.test_path)}
    every = [Problem(*row) for row in files.rows("dataset.train_path", data.train_path) if row[0] not in tested]
    if not every:
        raise UserError(
            f"dataset.train_path: all problems of {data.train_path} are in {data.test_path}, too",
            "give another dataset.test_path, or null, which holds some out of the one for training",
        )
    if data.held_out == 0:
        return tuple(every)
    # With a file of its own test takes nothing from this one.
    places = {"train": ("train", "test"), "val": ("val",)} if data.test_path is not None else {}
    found = tuple(
        one for one in every if split_of(one.question, data.split_seed, data.held_out) in places.get(split, (split,))
    )
    if not found:
        raise UserError(
            f"dataset.held_out: {data.held_out} of {len(every)} problems of {data.train_path} leaves none for {split}",
            "raise it, or give more problems",
        )
    return found
