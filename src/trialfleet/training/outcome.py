"""How a training ends."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


class NonFinite(Exception):
    """The loss or a gradient was not finite: the trial fails by itself, and trying again would not help."""

    def __init__(self, step: int, loss: float) -> None:
        what = f"a gradient is not finite (loss {loss})" if math.isfinite(loss) else f"the loss is {loss}"
        super().__init__(f"{what} at step {step}")
        self.step = step
        self.loss = loss


@dataclass(frozen=True)
class Outcome:
    """A training that came to its end."""

    metrics: Mapping[str, float]  # those of the objective, in its order
    step: int  # the evaluation they are from
    steps: int  # made in all
    ended: str  # 'all steps', or why early
