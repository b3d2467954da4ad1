"""A checkpoint judged by itself: evaluated on a split, without training."""

from contextlib import closing

from trialfleet.config import Config
from trialfleet.training import distributed, trained
from trialfleet.training.evaluation import Evaluator, write_files
from trialfleet.training.setup import Setup
from trialfleet.training.stop_sync import StopSync
from trialfleet.trial.run import Preempted, Run


def score(config: Config, run: Run, checkpoint: str, split: str) -> dict[str, float]:
    """See `trialfleet.training.evaluate`."""
    distributed.join()
    setup = Setup(config)
    state, frozen = trained.read(setup, checkpoint)
    evaluator = Evaluator(setup.program, setup.workload, split, config.training)
    with closing(evaluator):
        summary, _ = evaluator(state.params, frozen, state.extra, setup.inputs, StopSync(setup.mesh, run, None))
    if summary is None:
        raise Preempted("stopped during an evaluation")
    write_files(summary, split, run)
    values = {f"{split}/{name}": value for name, value in summary.metrics.items()}
    run.report(0, values)
    return values
