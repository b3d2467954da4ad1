"""The training of one trial, as one story."""

import logging
from collections import deque
from typing import Any

import jax
import numpy as np

from trialfleet.config import Config, signature
from trialfleet.errors import UserError
from trialfleet.tracking.run import Preempted, Pruned, Run
from trialfleet.training import checkpoints, control
from trialfleet.training.account import Account
from trialfleet.training.data import Fed, Feed, Loader, Position
from trialfleet.training.evaluation import Evaluator
from trialfleet.training.mesh import batch_sharding
from trialfleet.training.outcome import NonFinite, Outcome
from trialfleet.training.setup import Setup, fingerprint
from trialfleet.training.state import State
from trialfleet.training.wishes import Wish, Wishes

log = logging.getLogger(__name__)

REPORT, EVALUATE, CONTROL, SAVE = "report", "evaluate", "control", "save"


def fit(config: Config, run: Run) -> Outcome:
    """See `trialfleet.training.train`."""
    account = Account()
    with account.spent("start"):
        setup = Setup(config)
    training = Training(config, run, setup, account)
    try:
        training.begin()
        return training.run_to_the_end()
    finally:
        training.close()


class Training:
    """One run's work on a trial: the state on the devices, the position in the data, what control knows."""

    def __init__(self, config: Config, run: Run, setup: Setup, account: Account) -> None:
        self.config, self.run, self.setup, self.account = config, run, setup, account
        self.program = setup.program
        keep = config.training.checkpoints
        self.checkpoints = checkpoints.Checkpoints(run.checkpoints, run.earlier_checkpoints, keep)
        self.wishes = Wishes(setup.program.mesh, run, keep.every_seconds)
        self.evaluators: dict[str, Evaluator] = {}
        self.known = control.start()
        self.latest: dict[str, float] = {}  # the newest value of every metric
        self.in_flight: deque[tuple[int, Fed, bool, jax.Array]] = deque()
        self.position = Position(0, 0, 0)
        self.step = 0
        self.due: list[str] = []  # events at this step that are still to come
        self.score: float | None = None  # of an evaluation at this very step
        self.saved_at = -1
        self.rate_from = (0, 0.0)  # steps and seconds at the last report
        self.feed: Feed | None = None
        self.state: State
        self.frozen: Any

    # ---- the story ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The first state, from the newest whole checkpoint of the trial or from the seed."""
        with self.account.spent("start"):
            self.state, self.frozen = self.program.init(self.setup.inputs.hp, self.setup.inputs.seed)
        with self.account.spent("restore"):
            self._restore()
        self.inputs = self.setup.inputs._replace(knobs=self.setup.knobs(control.knobs(self.known, self.config)))
        self.run.note(
            fingerprint=fingerprint(self.program.mesh), resumed_from=self.step, signature=signature(self.config)
        )

    def run_to_the_end(self) -> Outcome:
        """Steps and what is due after each, until there are no more or there is a reason to stop."""
        self._events()  # what a run before this one had still to do at its last step
        self._open_feed()
        ended = "all steps"
        while self.step < self.setup.total_steps:
            if reason := control.knobs(self.known, self.config).stop:
                ended = reason
                break
            with self.account.spent("wait for data"):
                assert self.feed is not None
                fed = self.feed.next()
            for update in range(self.position.update, self.setup.updates_per_batch):
                self._step(fed, update)
                self._events()
                if self.step == self.setup.total_steps:
                    break
        self._settle(0)
        return self._outcome(ended)

    def _step(self, fed: Fed, update: int) -> None:
        with self.account.spent("train"):
            inputs = self.inputs._replace(stop=self.wishes.sent())
            self.state, signals = self.program.step(self.state, self.frozen, fed.batch, inputs)
            self.step += 1
            last_update = update + 1 == self.setup.updates_per_batch
            here = fed.position
            self.position = (
                Position(here.epoch, here.plan, update + 1)
                if not last_update
                else Position(here.epoch + 1, 0, 0)
                if fed.ends_epoch
                else Position(here.epoch, here.plan + 1, 0)
            )
            self.due = self._due(fed.ends_epoch and last_update)
            self.in_flight.append((self.step, fed, REPORT in self.due, signals))
            wish = self._settle(1)
        self._heed(wish or self.wishes.alone())

    def _due(self, ends_epoch: bool) -> list[str]:
        """What is to happen after this step, in order; a save may be added by an evaluation or a wish."""
        training, last = self.config.training, self.step == self.setup.total_steps
        due = [REPORT] if last or self.step % training.report_every == 0 else []
        if last or (ends_epoch if training.eval_every is None else self.step % training.eval_every == 0):
            due += [EVALUATE, CONTROL]
        every = training.checkpoints.every_steps
        if (last and training.checkpoints.at_end) or (every is not None and self.step % every == 0):
            due.append(SAVE)
        return due

    def _events(self) -> None:
        self.score = None
        while self.due:
            match self.due[0]:
                case "evaluate":
                    self._settle(0)
                    self._evaluate()
                case "control":
                    self._control()
                case "save":
                    self._save()
            # A report is written when its numbers have arrived: at the next step, or before any other event.
            self.due.pop(0)

    # ---- report -------------------------------------------------------------------------------------------

    def _settle(self, leave: int) -> int:
        """Reads the signals of steps in flight but for the newest `leave`; returns what processes wish, or 0."""
        wish = 0
        while len(self.in_flight) > leave:
            step, fed, report, signals = self.in_flight.popleft()
            values = np.asarray(signals)
            if bad := self.program.signals.bad(values):
                self._report(step, fed, values)
                raise NonFinite(*bad)
            if report:
                self._report(step, fed, values)
            wish = max(wish, self.program.signals.stop(values))
        return wish

    def _report(self, step: int, fed: Fed, values: np.ndarray) -> None:
        shown = {f"train/{name}": value for name, value in self.program.signals.means(values).items()}
        shown["train/epoch"] = fed.position.epoch + (fed.position.plan + 1) / self.setup.plans(fed.position.epoch)
        steps, seconds = step - self.rate_from[0], self._busy() - self.rate_from[1]
        if seconds > 0 and steps > 0:
            shown["train/steps_per_second"] = steps / seconds
            shown["train/examples_per_second"] = steps * self.config.training.global_batch / seconds
        self.rate_from = (step, self._busy())
        self.latest.update(shown)
        self.run.report(step, shown)

    def _busy(self) -> float:
        return self.account.of("train") + self.account.of("wait for data")

    # ---- evaluate and control -----------------------------------------------------------------------------

    def _evaluate(self) -> None:
        values = self._scores("val", self.state)
        self.latest.update(values)
        self.run.report(self.step, values)

    def _scores(self, split: str, state: State) -> dict[str, float]:
        with self.account.spent("evaluate"):
            if split not in self.evaluators:
                self.evaluators[split] = Evaluator(self.program, self.setup.workload, split, self.config.training)
            params = state.ema if self.config.training.ema_decay is not None else state.params
            summary, wish = self.evaluators[split](params, self.frozen, state.extra, self.inputs, self.wishes)
        if summary is None:
            self._heed(wish)
            raise AssertionError("an evaluation is broken off only by a wish to stop")
        for name, content in summary.files.items():
            self._write_artifact(f"{split}-{name}", content)
        return {f"{split}/{name}": value for name, value in summary.metrics.items()}

    def _write_artifact(self, name: str, content: bytes) -> None:
        if jax.process_index() == 0:
            self.run.artifacts.mkdir(parents=True, exist_ok=True)
            (self.run.artifacts / name).write_bytes(content)

    def _control(self) -> None:
        before = control.knobs(self.known, self.config)
        self.known = control.control(self.known, self.step, self.latest, self.config)
        now = control.knobs(self.known, self.config)
        if now != before:
            self.inputs = self.inputs._replace(knobs=self.setup.knobs(now))
        self.score = control.score(self.known, self.config)
        wanted = self.config.training.checkpoints.keep_best > 0 and control.is_best(self.known, self.step)
        if (wanted or now.stop) and SAVE not in self.due:
            self.due.append(SAVE)

    # ---- save, restore, stop ------------------------------------------------------------------------------

    def _heed(self, wish: int) -> None:
        """Does what the processes agreed on: saves, or ends this run."""
        if wish == Wish.SAVE:
            if SAVE not in self.due:
                self.due.append(SAVE)
        elif wish:
            self._settle(0)
            if wish == Wish.PRUNE:
                raise Pruned(f"pruned at step {self.step}")
            if wish == Wish.PREEMPT:
                self._save()
                self.checkpoints.wait()
            raise Preempted(f"stopped at step {self.step}")

    def _save(self) -> None:
        """Saves the state with what is still due at this step, so that another run does the rest."""
        self._settle(0)  # a state that is not finite is never saved
        remaining = [event for event in self.due if event not in (REPORT, SAVE)]
        if self.saved_at == self.step and not remaining:
            return
        with self.account.spent("save"):
            meta = {
                "position": list(self.position),
                "due": remaining,
                "control": self.known,
                "latest": self.latest,
                "score": self.score,
                "signature": signature(self.config),
                "fingerprint": fingerprint(self.program.mesh),
            }
            self.checkpoints.save(self.step, self.state, meta)
        self.saved_at = self.step
        self.wishes.saved()

    def _restore(self) -> None:
        resume = self.config.training.resume
        if resume == "never":
            return
        for saved in self.checkpoints.newest():
            self.state = checkpoints.read(saved, self.program.layout.shapes, self.program.layout.shardings)
            self.step, self.position = saved.step, Position(*saved.meta["position"])
            self.known, self.due, self.latest = saved.meta["control"], saved.meta["due"], saved.meta["latest"]
            self.rate_from = (self.step, 0.0)
            if (then := saved.meta["fingerprint"]) != (now := fingerprint(self.program.mesh)):
                differing = ", ".join(f"{key} {then.get(key)} → {now[key]}" for key in now if then.get(key) != now[key])
                log.warning("going on from step %d elsewhere, so not bit for bit: %s", self.step, differing)
            log.info("going on from step %d (%s)", self.step, saved.path)
            return
        if resume == "must":
            raise UserError("training.resume: must, and there is no checkpoint", "training.resume=auto begins anew")

    def _open_feed(self) -> None:
        source, training = self.setup.train_source, self.config.training
        loader = Loader(source, batch_sharding(self.program.mesh), training.global_batch, self.program.accumulation)
        self.feed = Feed(loader, self.config.seed, self.position, training.overfit_batches, training.prefetch)

    # ---- the end ------------------------------------------------------------------------------------------

    def _outcome(self, ended: str) -> Outcome:
        if self.config.training.evaluate_test:
            values = self._scores("test", self._best_state())
            self.run.report(self.step, values)
            self.known = control.with_test(self.known, values, self.config)
        self.checkpoints.wait()
        return Outcome(
            metrics=control.metrics(self.known, self.config),
            step=self.known[self.config.objective.at]["step"],
            steps=self.step,
            ended=ended,
        )

    def _best_state(self) -> State:
        """The state with the best score, if it was kept; else the last one."""
        self.checkpoints.wait()
        best = self.checkpoints.best()
        if best is None:
            return self.state
        return checkpoints.read(best, self.program.layout.shapes, self.program.layout.shardings)

    def close(self) -> None:
        """Whatever happened: no thread is left, and the account is in the record."""
        if self.feed is not None:
            self.feed.close()
        self.checkpoints.wait()
        self.run.note(seconds=self.account.seconds(), compilations=self.account.compiled(), steps=self.step)
