"""The sharded trainer: one linear loop that every workload is an instance of.

mesh → workload → program (state, step) → restore → loop (batch, step, report, evaluate, control, save) → outcome
"""

from typing import TYPE_CHECKING

from trialfleet.config import Config
from trialfleet.training.outcome import NonFinite, Outcome
from trialfleet.trial.run import PeerLost, Run

if TYPE_CHECKING:
    from trialfleet.training.estimation import Estimate

__all__ = ["NonFinite", "Outcome", "check", "describe", "estimate", "evaluate", "train"]


def train(config: Config, run: Run) -> Outcome:
    """Trains what the config describes, going on from the newest checkpoint of the trial if there is one.

    Raises:
        Pruned: the driver's verdict; nothing is saved.
        Preempted: saved, to be gone on with by another run (not saved if a newer run exists already).
        NonFinite: the loss or a gradient was not finite.
        PeerLost: another process of this training is gone.
        NotInThisProcess: jax runs in this process with other settings, and there are other processes to be had.
        UserError: what the user can put right, before anything is trained.
    """
    from trialfleet.training import environment

    # Before jax is imported, which reads it once.
    environment.prepare(config, among_others=getattr(run, "among_others", False))
    from trialfleet.training import distributed
    from trialfleet.training.seeds import fit_all

    try:
        return fit_all(config, run)
    except Exception as error:
        if distributed.lost_a_peer(error):
            raise PeerLost("another process of this training is gone") from error
        raise
    finally:
        environment.trim_cache(config)


def check(config: Config) -> None:
    """Refuses at once what `train` would refuse, before anything of the training exists. `train` repeats it for little.

    Raises:
        UserError: the mesh, the batch, the data or the names of groups do not fit, or the workload returns what the
            trainer cannot use.
    """
    from trialfleet.training import environment

    environment.prepare(config)
    from trialfleet.training.setup import Setup

    Setup(config).rehearse()


def evaluate(config: Config, run: Run, checkpoint: str, split: str = "val") -> dict[str, float]:
    """Metrics of a checkpoint on a split ('train', 'val' or 'test'); samples go to the run's artifacts.

    The parameters are the averaged ones where training kept an average.

    Raises:
        UserError: if there is no whole checkpoint of this model in that folder.
        Preempted: if the run was asked to stop.
    """
    from trialfleet.training import environment

    environment.prepare(config)
    from trialfleet.training.evaluate_checkpoint import score

    return score(config, run, checkpoint, split)


def describe(config: Config) -> str:
    """What `train` would do, as text: data, parameters, mesh, steps, signature. Computes nothing.

    Where the mesh needs more devices than a CPU's one, they are simulated.
    """
    from trialfleet.training import environment

    environment.prepare_for_shapes(config)
    from trialfleet.training.dry_run import text

    return text(config)


def estimate(config: Config, hopeless_too: bool = True) -> "Estimate":
    """Memory, operations, collectives and time of `train`, on devices that are simulated. Allocates nothing.

    Args:
        hopeless_too: whether programs are compiled even if the device has no room for the state alone.

    Raises:
        UserError: what `check` says.
    """
    from trialfleet.training import environment

    environment.prepare_for_shapes(config)
    from trialfleet.training.estimation import estimate

    return estimate(config, hopeless_too)
