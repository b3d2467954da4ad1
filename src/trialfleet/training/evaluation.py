"""The evaluation loop: every example of a split once, rows joined over batches and processes."""

# mypy: allow-untyped-calls
# (jax's PartitionSpec, ShapeDtypeStruct and a few functions have no annotations.)

from collections.abc import Generator

import jax
import numpy as np

from trialfleet.config import schema
from trialfleet.errors import UserError
from trialfleet.training.contract import CheckedWorkload
from trialfleet.training.data import EvaluationOrder, Loader, Made
from trialfleet.training.decoding import decoded
from trialfleet.training.mesh import eval_sharding
from trialfleet.training.program import Inputs, Program
from trialfleet.training.stop_sync import Request, StopSync
from trialfleet.training.workload import Extra, Params, Rows, Summary, artifact_name
from trialfleet.trial.run import Run


class Evaluator:
    """Evaluates one split of a workload with the parameters it is given."""

    def __init__(self, program: Program, workload: CheckedWorkload, split: str, training: schema.Training) -> None:
        self.split = split
        self._program = program
        self._workload = workload
        source = workload.source(split)
        # Always the same examples: neither the seed nor the epoch of a training changes what it is judged by.
        self._plans = source.epoch(0, 0)[: training.limit_eval_batches]
        self._loader = Loader(source, eval_sharding(program.mesh), training.eval_batch, None)
        self._order = EvaluationOrder(self._loader.batches, self._plans)
        self._workers, self._ahead = training.data_workers, training.prefetch
        self._made: Generator[Made, None, None] | None = None  # goes on from one evaluation to the next

    def __call__(
        self, params: Params, frozen: Params, extra: Extra, inputs: Inputs, stop_sync: StopSync
    ) -> tuple[Summary | None, int]:
        """The summary of the split, or None if processes wished to stop on the way; and what they wished."""
        flying: list[tuple[Rows, jax.Array]] = []
        parts: list[dict[str, np.ndarray]] = []
        for index, made in zip(range(len(self._plans)), self._batches(), strict=False):
            batch, now = self._loader.place(made.batch), inputs._replace(stop=stop_sync.sent())
            flying.append(self._program.evaluate(params, frozen, extra, batch, np.int32(index), now))
            request = _land(flying, parts) if len(flying) > 1 else 0
            if (request := max(request, stop_sync.alone())) > Request.SAVE:
                self.close()  # another evaluation begins with the first batch
                return None, request
        while flying:
            if (request := _land(flying, parts)) > Request.SAVE:
                return None, request
        rows = _joined(parts)
        if not len(rows["weight"]):
            raise UserError(
                f"dataset: of the examples for {self.split} none could be read, and nothing can be judged",
                "the log names what is damaged: put it right, or take it out of the data",
            )
        return self._workload.summarize(rows, self.split), 0

    def _batches(self) -> Generator[Made, None, None]:
        if self._made is None:
            self._made = decoded(self._order, self._workers, self._ahead)
        return self._made

    def close(self) -> None:
        """End the processes that decode, if there are any."""
        if self._made is not None:
            self._made.close()
            self._made = None


def write_files(summary: Summary, split: str, run: Run) -> None:
    """Puts samples and figures among the run's artifacts, over those of the evaluation before."""
    if jax.process_index() == 0 and summary.files:
        run.artifacts.mkdir(parents=True, exist_ok=True)
        for name, content in summary.files.items():
            (run.artifacts / artifact_name(name, split)).write_bytes(content)


def _land(flying: list[tuple[Rows, jax.Array]], parts: list[dict[str, np.ndarray]]) -> int:
    """Brings the oldest batch's rows to the host; what the processes wished at that time."""
    rows, request = flying.pop(0)
    host = {name: np.asarray(leaf) for name, leaf in rows.items()}
    counted = host["weight"] > 0
    parts.append({name: leaf[counted] for name, leaf in host.items()})
    return int(request)


def _joined(parts: list[dict[str, np.ndarray]]) -> Rows:
    """All rows; where buckets differ in a trailing axis, the shorter ones are filled up with zeros."""
    return {name: np.concatenate(_level([part[name] for part in parts])) for name in parts[0]}


def _level(leaves: list[np.ndarray]) -> list[np.ndarray]:
    largest = np.max([leaf.shape[1:] for leaf in leaves], axis=0)
    return [
        np.pad(leaf, [(0, 0), *((0, int(size) - own) for size, own in zip(largest, leaf.shape[1:], strict=True))])
        for leaf in leaves
    ]
