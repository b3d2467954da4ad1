"""The training of one trial, as one story."""

import logging
from collections import deque
from typing import NamedTuple

import jax
import numpy as np

from trialfleet.config import Config, signature
from trialfleet.errors import UserError
from trialfleet.training import checkpoints, control, datasets_used, distributed, environment, restore, trees
from trialfleet.training.checkpoints import CheckpointManager
from trialfleet.training.data import Fed, Feed, Loader, Position
from trialfleet.training.evaluation import Evaluator, write_files
from trialfleet.training.goodput import Goodput, Profiler, utilization
from trialfleet.training.mesh import batch_sharding
from trialfleet.training.outcome import NonFinite, Outcome
from trialfleet.training.restore import Start
from trialfleet.training.setup import Setup, fingerprint
from trialfleet.training.state import Purpose, State, purpose_key
from trialfleet.training.stop_sync import Request, StopSync
from trialfleet.trial.run import Preempted, Pruned, Run

log = logging.getLogger(__name__)

REPORT, EVALUATE, CONTROL, SAVE = "report", "evaluate", "control", "save"


class InFlight(NamedTuple):
    """A step that was dispatched and whose signals have not been read."""

    step: int
    fed: Fed
    report: bool
    signals: jax.Array


def fit(config: Config, run: Run) -> Outcome:
    """Train one trial: set up, find what the run begins with, train, and clean up. See `trialfleet.training.train`."""
    goodput = Goodput()
    try:
        with goodput.spent("start"):
            distributed.join()
            setup = Setup(config)
            setup.rehearse()
        saves = CheckpointManager(run.checkpoints, run.earlier_checkpoints, config.training.checkpoints)
        begun = restore.begin(config, setup, saves, goodput)
        saves.go_on(begun.step)
        training = Training(config, run, setup, goodput, saves, begun)
        try:
            return training.train()
        finally:
            training.close()
    finally:
        run.note(seconds=goodput.seconds(), compilations=goodput.compiled())


class Training:
    """One run's work on a trial: the state on the devices, the position in the data, what control knows.

    Args:
        saves: the run's checkpoints.
        start: what the run begins with.
    """

    def __init__(
        self, config: Config, run: Run, setup: Setup, goodput: Goodput, saves: CheckpointManager, start: Start
    ) -> None:
        self.config, self.run, self.setup, self.goodput, self.saves = config, run, setup, goodput, saves
        self.program = setup.program
        self.stop_sync = StopSync(setup.mesh, run, config.training.checkpoints.every_seconds, saves.saving)
        self.profiler = Profiler(config.training.profile, run.artifacts)
        self.evaluators: dict[str, Evaluator] = {}
        self.in_flight: deque[InFlight] = deque()
        self.evaluated = False  # whether there was an evaluation at this step
        self.flops, self.tokens = 0.0, 0
        self.feed: Feed | None = None
        self.state, self.frozen, self.frozen_digest = start.state, start.frozen, start.frozen_digest
        self.prepared = start.prepared
        self.step, meta = start.step, start.meta
        self.work = Work(self.step, 0.0, 0.0, 0, 0.0)  # at the last report
        self.position = Position(*meta["position"]) if meta else Position(0, 0, 0)
        self.due: list[str] = meta["due"] if meta else []  # events at this step that are still to come, in order
        self.known = meta["control"] if meta else control.start()
        self.latest: dict[str, float] = meta["latest"] if meta else {}  # the newest value of every metric
        self.ends_epoch = bool(meta and meta["ends_epoch"])  # whether this step was the last of an epoch
        # With nothing new there is nothing to save. The beginning needs no checkpoint either: it comes from the seed.
        self.saved_at = -1 if self.due else self.step
        self._turn_knobs()
        self.run.note(
            fingerprint=fingerprint(setup.mesh),
            resumed_from=self.step,
            signature=signature(config),
            dropped_examples=setup.dropped,
            exact=self._is_exact(),
            datasets=datasets_used.described(config),
            **({"init_from": start.init_report} if start.init_report is not None else {}),
        )

    def _is_exact(self) -> bool:
        """Whether this training would give the same bits again, for its record; said once if not."""
        platform = self.setup.mesh.devices.ravel()[0].platform
        exact = environment.is_exact(platform)
        if not exact:
            log.info(
                "last bits may differ between runs on this %s; runtime.deterministic=true makes them equal", platform
            )
        return exact

    # ---- the story ----------------------------------------------------------------------------------------

    def train(self) -> Outcome:
        """Steps and what is due after each, until there are no more or there is a reason to stop."""
        self._act_on_stop(self.stop_sync.alone())  # a signal may have come while the first programs were compiled
        self._run_due_events()  # what the run before this one had still to do at its last step
        self._open_feed()
        while self.step < self.setup.total_steps and self.knobs.stop is None:
            fed = self._fed()
            for update in range(self.position.update, self.setup.updates_per_batch):
                if update == 0:
                    fed = self._prepare(fed)
                self._step(fed, update)
                self._run_due_events()
                if self.step == self.setup.total_steps:
                    break
        self._drain(0)
        return self._outcome()

    def _fed(self) -> Fed:
        with self.goodput.spent("wait for data"):
            assert self.feed is not None
            fed = self.feed.next()
        return fed._replace(batch=self.prepared) if self.prepared else fed

    def _step(self, fed: Fed, update: int) -> None:
        """Dispatches an update and reads what the one before it said."""
        with self.goodput.spent("train"), self.profiler.step(self.step):
            inputs = self.inputs._replace(stop=self.stop_sync.sent())
            self.state, signals = self.program.step(self.state, self.frozen, fed.batch, inputs)
            self.step += 1
            last_update = update + 1 == self.setup.updates_per_batch
            self.position = fed.position.after(update, last_update, fed.ends_epoch)
            self.ends_epoch, self.evaluated = fed.ends_epoch and last_update, False
            self.due = self._due()
            self.in_flight.append(InFlight(self.step, fed, REPORT in self.due, signals))
            request = self._drain(1)
        if last_update:
            self.prepared = {}
        self._act_on_stop(request or self.stop_sync.alone())

    def _due(self) -> list[str]:
        """What is to happen after this step, in order; an evaluation or a request may add a save."""
        training, last = self.config.training, self.step == self.setup.total_steps
        due = [REPORT] if last or self.step % training.report_every == 0 else []
        evaluate = self.ends_epoch if training.eval_every is None else self.step % training.eval_every == 0
        if last or evaluate:
            due.append(EVALUATE)
        if last or evaluate or self.ends_epoch:
            due.append(CONTROL)
        every = training.checkpoints.every_steps
        if (last and training.checkpoints.at_end) or (every is not None and self.step % every == 0):
            due.append(SAVE)
        return due

    def _run_due_events(self) -> None:
        """What is due. A report is written when its numbers have arrived: before any other event, or a step later."""
        happenings = {REPORT: lambda: None, EVALUATE: self._evaluate, CONTROL: self._control, SAVE: self._save}
        while self.due:
            if self.due[0] != REPORT:
                with self.goodput.spent("train"):
                    self._drain(0)
            happenings[self.due[0]]()
            self.due.pop(0)

    # ---- data ---------------------------------------------------------------------------------------------

    def _open_feed(self) -> None:
        source, training = self.setup.train_source, self.config.training
        loader = Loader(source, batch_sharding(self.setup.mesh), training.global_batch, self.program.accumulation)
        self.feed = Feed(
            loader, self.config.seed, self.position, training.overfit_batches, training.prefetch, training.data_workers
        )

    def _prepare(self, fed: Fed) -> Fed:
        """The batch as the workload wants it for its updates; it is kept, to be saved between two of them."""
        workload = self.setup.workload
        if not workload.prepares:
            return fed
        with self.goodput.spent("train"):
            self._drain(0)  # what is waited for here is the step before, not the rollout
        with self.goodput.spent("prepare"), jax.set_mesh(self.setup.mesh):
            key = jax.random.fold_in(purpose_key(self.inputs.seed, Purpose.PREPARE), self.step)
            whole = trees.merge(self.state.params, self.frozen)
            batch = workload.prepare(self, whole, self.state.extra, fed.batch, key, self.setup.hp)
        if batch is None:
            self._act_on_stop(self.stop_sync.agreed())
            raise UserError(
                f"{self.config.workload.factory}.prepare: returned no batch, and nobody asked it to stop",
                "return None only if context.stop() said so",
            )
        self.prepared = batch
        return fed._replace(batch=batch)

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """See `workload.Context`."""
        return self.setup.mesh

    def stop(self) -> bool:
        """See `workload.Context`."""
        return self.stop_sync.agreed() > Request.SAVE

    def generated(self, tokens: int) -> None:
        """See `workload.Context`."""
        self.tokens += tokens

    # ---- report -------------------------------------------------------------------------------------------

    def _drain(self, leave: int) -> int:
        """Reads the signals of steps in flight but for the newest `leave`; returns what processes request, or 0."""
        request = 0
        while len(self.in_flight) > leave:
            step, fed, report, signals = self.in_flight.popleft()
            values = np.asarray(signals)
            of_one = self.setup.flops(fed.bucket, self.knobs.on) or 0.0  # knobs are turned when nothing is in flight
            self.flops += self.config.training.global_batch * of_one
            bad = self.program.signals.bad(values)
            if report or bad:
                self._report(step, fed, values)
            if bad:
                raise NonFinite(*bad)
            request = max(request, self.program.signals.stop(values))
        return request

    def _report(self, step: int, fed: Fed, values: np.ndarray) -> None:
        shown = {f"train/{name}": value for name, value in self.program.signals.means(values).items()}
        shown["train/epoch"] = fed.position.epoch + (fed.position.plan + 1) / self.setup.plans(fed.position.epoch)
        spent = self.goodput.of
        now = Work(step, spent("train") + spent("wait for data"), self.flops, self.tokens, spent("prepare"))
        steps, seconds, flops, tokens, preparing = (new - old for new, old in zip(now, self.work, strict=True))
        if seconds > 0 and steps > 0:
            shown["train/steps_per_second"] = steps / seconds
            shown["train/examples_per_second"] = steps * self.config.training.global_batch / seconds
            shown |= {f"train/{name}": value for name, value in utilization(flops / seconds, self.setup.mesh).items()}
        if tokens > 0 and preparing > 0:
            shown["train/tokens_per_second"] = tokens / preparing
        self.work = now
        self.latest.update(shown)
        self.run.report(step, shown, self.setup.total_steps)

    # ---- evaluate and control -----------------------------------------------------------------------------

    def _evaluate(self) -> None:
        values = self._scores("val", self.state)
        self.latest.update(values)
        self.evaluated = True
        self.run.report(self.step, values, self.setup.total_steps)

    def _scores(self, split: str, state: State) -> dict[str, float]:
        with self.goodput.spent("evaluate"):
            if split not in self.evaluators:
                self.evaluators[split] = Evaluator(self.program, self.setup.workload, split, self.config.training)
            params = state.params if self.config.training.ema_decay is None else state.ema
            summary, request = self.evaluators[split](params, self.frozen, state.extra, self.inputs, self.stop_sync)
        if summary is None:
            self._act_on_stop(request)
            raise AssertionError("an evaluation is broken off only by a request to stop")
        write_files(summary, split, self.run)
        return {f"{split}/{name}": value for name, value in summary.metrics.items()}

    def _control(self) -> None:
        # Scores are floats from host libraries: what one process found is what all of them go by.
        values = distributed.agreed_json(self.latest) if self.evaluated else None
        event = control.Event(self.step, self.position.epoch, self.ends_epoch, values)
        self.known = control.control(self.known, event, self.config, self.setup.facts)
        self._turn_knobs()
        best = self.config.training.checkpoints.keep_best > 0 and control.is_best(self.known, self.step, self.config)
        ends = self.knobs.stop is not None and self.config.training.checkpoints.at_end
        if (best or ends) and SAVE not in self.due:
            self.due.append(SAVE)

    def _turn_knobs(self) -> None:
        self.knobs = control.knobs(self.known, self.config, self.setup.facts)
        self.inputs = self.setup.inputs._replace(knobs=self.setup.knobs(self.knobs))

    # ---- save and stop ------------------------------------------------------------------------------------

    def _act_on_stop(self, request: int) -> None:
        """Does what the processes agreed on: saves, or ends this run."""
        if request == Request.SAVE and SAVE not in self.due:
            self.due.append(SAVE)
        if request <= Request.SAVE:
            return
        self._drain(0)
        if request == Request.PRUNE:
            raise Pruned(f"pruned at step {self.step}")
        if request == Request.PREEMPT:
            self._save()
            self.saves.wait()
        raise Preempted(f"stopped at step {self.step}")

    def _save(self) -> None:
        """Saves the state with what is still due at this step, so that another run does the rest."""
        self._drain(0)  # which raises if the state is not finite: such a state is never saved
        remaining = [event for event in self.due if event != REPORT]
        remaining = [] if remaining == [SAVE] else remaining
        if self.saved_at == self.step and not remaining:
            return
        with self.goodput.spent("save"):
            meta = {
                "position": list(self.position),
                "due": remaining,
                "ends_epoch": self.ends_epoch,
                "control": self.known,
                "latest": self.latest,
                "score": control.score(self.known, self.config) if self.evaluated else None,
                "signature": signature(self.config),
                "fingerprint": fingerprint(self.setup.mesh),
                "frozen": self.frozen_digest,
                "data": {key: list(paths) for key, paths in self.config.data_files().items()},
                "batch": {name: [leaf.shape, str(leaf.dtype)] for name, leaf in self.prepared.items()},
            }
            self.saves.save(self.step, {"state": self.state, "batch": self.prepared}, meta)
        self.saved_at = self.step
        self.stop_sync.saved()

    # ---- the end ------------------------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        if self.config.training.evaluate_test:
            values = self._scores("test", self._best_state())
            self.run.report(self.step, values, self.setup.total_steps)
            self.known = control.with_test(self.known, values, self.config)
        return Outcome(
            metrics=control.metrics(self.known, self.config),
            step=self.known[self.config.objective.at]["step"],
            steps=self.step,
            ended=self.knobs.stop or "all steps",
        )

    def _best_state(self) -> State:
        """The state of the best evaluation, without what no evaluation needs; the last one if none is to be kept.

        Which evaluation that is says control, and no folder: what lies there depends on where a training was cut.
        """
        step = self.known["best"]["step"]
        if step == self.step or self.config.training.checkpoints.keep_best == 0:
            return self.state
        self.saves.wait()
        best = self.saves.at(step)
        if best is None:
            log.warning(
                "training.evaluate_test: the best checkpoint, of step %d, is not there: the last is taken", step
            )
            return self.state
        layout = self.program.layout
        scored = "params" if self.config.training.ema_decay is None else "ema"
        shapes, places = (
            {"state": {name: getattr(tree, name) for name in (scored, "extra")}}
            for tree in (layout.shapes, layout.shardings)
        )
        found = checkpoints.read_part(best, shapes, places)["state"]
        return self.state._replace(**found)

    def close(self) -> None:
        """Stop threads and processes, and wait for checkpoints that are being written."""
        if self.feed is not None:
            self.feed.close()
        for evaluator in self.evaluators.values():
            evaluator.close()
        self.profiler.close()
        with self.goodput.spent("save"):
            self.saves.wait()
        self.run.note(steps=self.step, checkpoints=self.saves.kept())


class Work(NamedTuple):
    """What a run has done so far."""

    steps: int
    seconds: float  # without compilation, preparation, evaluation and saving
    flops: float
    tokens: int  # that were generated
    preparing: float  # seconds, without compilation
