"""A checkpoint judged by itself: evaluated on a split, without training."""

from contextlib import closing

import jax

from trialfleet.config import Config
from trialfleet.errors import UserError
from trialfleet.training import distributed, restore
from trialfleet.training.evaluation import Evaluator, write_files
from trialfleet.training.setup import Setup
from trialfleet.training.stop_sync import StopSync
from trialfleet.trial.run import Preempted, Run


def score(config: Config, run: Run, checkpoint: str, split: str) -> dict[str, float]:
    """See `trialfleet.training.evaluate`."""
    distributed.join()
    setup = Setup(config)
    program, inputs = setup.program, setup.inputs
    state, frozen = program.init(inputs.hp, inputs.seed)
    state, frozen = restore.with_published(setup.workload, program, state, frozen)
    for leaf in jax.tree.leaves(state.opt):
        leaf.delete()  # nothing is trained here
    verify = config.training.checkpoints.verify
    if config.training.init_from is not None:  # frozen parameters are in no checkpoint of their own training
        state, frozen, _ = restore.with_parameters_of(config.training.init_from, program, state, frozen, verify=verify)
    state, frozen, report = restore.with_parameters_of(checkpoint, program, state, frozen, "checkpoint", verify)
    lacking = sorted(set(report["not_there"] + report["other_shape"]) - program.layout.frozen)
    if lacking:
        raise UserError(
            f"{checkpoint} does not hold this model: {', '.join(lacking)} are not there or have another shape",
            "use the config that it was trained with",
        )
    evaluator = Evaluator(program, setup.workload, split, config.training)
    with closing(evaluator):
        summary, _ = evaluator(state.params, frozen, state.extra, inputs, StopSync(setup.mesh, run, None))
    if summary is None:
        raise Preempted("stopped during an evaluation")
    write_files(summary, split, run)
    values = {f"{split}/{name}": value for name, value in summary.metrics.items()}
    run.report(0, values)
    return values
