"""Whether trials fit their devices' memory, found out before a job is spent on them (`hydra.sweeper.check_memory`).

The application says what a trial needs: its task function has an attribute `memory`, which is called with the trial's
config. That may take a minute, so a thread asks, one trial after the other, and the driver goes on.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from enum import Enum

from omegaconf import DictConfig

from trialfleet.config.devices import Needs
from trialfleet.errors import ShownError
from trialfleet.sweep.active_trial import ActiveTrial

Answer = Needs | ShownError  # an error: why the application cannot say it


class Verdict(Enum):
    """What is known of a trial that is to be submitted."""

    WAITS = "waits"  # the application has not answered
    FITS = "fits"  # or nobody can say that it does not
    TOO_LARGE = "too large"


class MemoryCheck:
    """Asks for each trial once.

    Args:
        compose: the config of a trial from its overrides.
        needs: what a trial with a config needs.
        notice: tells the user something.
        asynchronous: whether a thread asks; False where nobody waits for anything, in simulations.
    """

    def __init__(
        self,
        compose: Callable[[Sequence[str]], DictConfig],
        needs: Callable[[DictConfig], Needs],
        notice: Callable[[str], None],
        asynchronous: bool = True,
    ) -> None:
        self._compose, self._needs, self._notice = compose, needs, notice
        self._answers: dict[int, Answer] = {}  # by trial
        self._asked: set[int] = set()
        self._warned: set[int] = set()
        self._questions: queue.Queue[tuple[int, DictConfig]] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._asynchronous = asynchronous

    def verdict(self, trial: ActiveTrial) -> Verdict:
        """Never waits: the first time that a trial is asked about, its question is put."""
        if trial.number not in self._asked:
            self._asked.add(trial.number)
            self._ask(trial.number, trial.record.overrides)
        answer = self._answers.get(trial.number)
        if answer is None:
            return Verdict.WAITS
        if isinstance(answer, Needs) and answer.state > answer.memory:
            return Verdict.TOO_LARGE
        self._warn(trial.number, answer)
        return Verdict.FITS

    def described(self, trial: ActiveTrial) -> str:
        """Why a trial is too large."""
        answer = self._answers[trial.number]
        assert isinstance(answer, Needs)
        return (
            f"the state alone is {answer.state / 1e9:.3g} GB on each device, and {answer.device} has "
            f"{answer.memory / 1e9:.3g} GB; no job was started (hydra.sweeper.check_memory)"
        )

    def _warn(self, number: int, answer: Answer) -> None:
        if number in self._warned:
            return
        self._warned.add(number)
        if isinstance(answer, ShownError):
            self._notice(f"trial {number}: nobody can say how much memory it needs: {answer.message}")
        elif answer.peak is not None and answer.peak > answer.memory:
            self._notice(
                f"trial {number}: may not fit: an estimate of {answer.peak / 1e9:.3g} GB on each device, and "
                f"{answer.device} has {answer.memory / 1e9:.3g} GB"
            )

    def _ask(self, number: int, overrides: Sequence[str]) -> None:
        config = self._compose(overrides)
        if not self._asynchronous:
            self._answers[number] = self._answer(config)
            return
        self._questions.put((number, config))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="memory check", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            number, config = self._questions.get()
            self._answers[number] = self._answer(config)

    def _answer(self, config: DictConfig) -> Answer:
        """An application that fails here fails no trial: its job may know better."""
        try:
            return self._needs(config)
        except ShownError as error:
            return error
        except Exception as error:  # noqa: BLE001  # the application's own code
            return ShownError(f"{type(error).__name__}: {error}")
