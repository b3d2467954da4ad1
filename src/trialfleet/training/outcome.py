"""How a training ends."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trialfleet.errors import ShownError


class NonFinite(ShownError):
    """The loss or a gradient was not finite: the trial fails by itself, and trying again would not help."""

    def __init__(self, step: int, loss: float) -> None:
        what = f"a gradient is not finite (loss {loss})" if math.isfinite(loss) else f"the loss is {loss}"
        fix = "take a smaller optimizer.learning_rate, or clip gradients (training.gradient_clip)"
        super().__init__(f"{what} at step {step}", fix)
        self.step = step
        self.loss = loss


@dataclass(frozen=True)
class Outcome:
    """A training that came to its end."""

    metrics: Mapping[str, float]  # those of the objective, in its order
    step: int  # the evaluation they are from
    steps: int  # made in all
    ended: str  # 'all steps', or why early
