"""The scores of an evaluation, from the completions of its problems.

With k completions of each problem (`evaluation.num_passes`): accuracy is the share of completions that are right, as
a single one is on average (pass@1); pass@k the share of problems of which one completion is; majority@k the share of
those whose most frequent answer is, of equally frequent ones the first.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from trialfleet.config.grpo import Reward
from trialfleet.workloads.grpo import rewards

SAMPLES = 20  # problems whose completions are shown with each evaluation


class Sample(NamedTuple):
    """A problem and its completions."""

    question: str
    gold: str
    completions: Sequence[str]


def of(samples: Sequence[Sample], functions: Mapping[str, Reward]) -> dict[str, float]:
    """Accuracy, pass@k, majority@k, the shares of completions within 10 % and of the right format, and the reward."""
    judged = np.asarray([[_judged(one, sample.gold) for one in sample.completions] for sample in samples], float)
    own = [[rewards.judged(functions, one, sample.gold) for one in sample.completions] for sample in samples]
    right, near, formatted = (judged[..., index] for index in range(3))
    return {
        "accuracy": float(right.mean()),
        "pass_at_k": float(right.max(1).mean()),
        "majority_at_k": float(np.mean([_is_right(_majority(one.completions), one.gold) for one in samples])),
        "partial_accuracy": float(near.mean()),
        "format_accuracy": float(formatted.mean()),
        "reward": float((np.asarray(own) @ np.asarray(rewards.weights(functions))).mean()),
    }


def table(samples: Sequence[Sample], functions: Mapping[str, Reward]) -> bytes:
    """A line of CSV for each completion of the first samples: what it is worth to each function, and in all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = rewards.names(functions)
    writer.writerow(["question", "answer", "completion", "right", *(f"reward_{name}" for name in names), "reward"])
    for sample in samples[:SAMPLES]:
        for completion in sample.completions:
            worth = rewards.judged(functions, completion, sample.gold)
            total = float(np.dot(worth, rewards.weights(functions)))
            right = int(_judged(completion, sample.gold)[0])
            writer.writerow([sample.question, sample.gold, completion, right, *worth, round(total, 6)])
    return text.getvalue().encode()


def _judged(completion: str, gold: str) -> tuple[bool, bool, bool]:
    """Right, within 10 %, of the right format."""
    given = rewards.said(completion)
    value, true = rewards.number(given or ""), rewards.number(gold)
    right = _is_right(given, gold)
    near = right or (value is not None and bool(true) and true is not None and 0.9 <= value / true <= 1.1)
    return right, near, given is not None


def _is_right(given: str | None, gold: str) -> bool:
    """Whether an answer is the right one: the same number, or the same text where the right one is no number."""
    return given is not None and _key(given) == _key(gold)


def _key(answer: str) -> Decimal | str:
    value = rewards.number(answer)
    return answer.strip() if value is None else value


def _majority(completions: Sequence[str]) -> str | None:
    answers = [answer for answer in map(rewards.said, completions) if answer is not None]
    if not answers:
        return None
    counts = Counter(map(_key, answers))
    return max(answers, key=lambda answer: counts[_key(answer)])  # of several the first
