"""Problems that the library reasoning-gym generates."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np

from trialfleet.config.grpo import ReasoningGym
from trialfleet.errors import UserError, nearest
from trialfleet.workloads.grpo.files import MARK

SIZE = 10_000  # problems of a generator: some make or plan all of them beforehand, some refuse more than 20,000
Row = tuple[str, str, str]  # question, reasoning, answer


def problems(data: ReasoningGym, part: int) -> Iterator[Row]:
    """Question, reasoning and answer of one problem after the other, without end.

    Where a task says how an answer comes about, that is the reasoning; else it is the question with its answer.

    Args:
        part: which part of all problems is drawn from.
    """
    for block in count():
        made = _dataset(data, part, block)
        for number in range(SIZE):
            try:
                one = made[number]
            except Exception as error:  # whatever the task does
                raise UserError(
                    f"dataset.task: {data.task} failed to make a problem: {type(error).__name__}: {error}",
                    "choose other dataset.options, with which it can, or another task",
                ) from error
            yield _row(data, one)


def _row(data: ReasoningGym, one: dict[str, Any]) -> Row:
    if one["answer"] is None:
        raise UserError(
            f"dataset.task: {data.task} has problems of many right answers, and names none of them",
            "choose a task whose problems have one",
        )
    question, answer = str(one["question"]).strip(), str(one["answer"]).strip()
    worked = str(one["metadata"].get("answer_cot", "")).rpartition(MARK)[0].strip()
    return question, worked or f"{question} {answer}", answer


def _seed(*of: int) -> int:
    """Far from all others: problem n of a generator is problem n - 1 of the one whose seed is greater by one."""
    return int(np.random.SeedSequence(of).generate_state(1)[0] >> 1)


def _dataset(data: ReasoningGym, part: int, block: int) -> Any:
    """A generator of `SIZE` problems, the block-th of its part."""
    import reasoning_gym  # takes a second, which only who uses it shall wait
    from reasoning_gym.factory import DATASETS

    if data.task not in DATASETS:
        raise UserError(
            f"dataset.task: reasoning-gym has no task {data.task!r}{nearest(data.task, sorted(DATASETS))}",
            "choose one of " + ", ".join(sorted(DATASETS)),
        )
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in data.options.items()}
    try:
        return reasoning_gym.create_dataset(data.task, size=SIZE, seed=_seed(data.seed, part, block), **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"dataset.options: {data.task} refuses them: {error}", "correct them") from error
