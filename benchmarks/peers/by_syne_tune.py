"""Syne Tune: its local back end, which starts a script anew for each trial; this file is the script, too.

https://syne-tune.readthedocs.io/en/latest/getting_started.html. Its tuner sleeps 5 s between two looks unless it is
told otherwise; here 0.1 s, in its favour.
"""

import os
import sys
from pathlib import Path

from syne_tune import Reporter, StoppingCriterion, Tuner
from syne_tune.backend import LocalBackend
from syne_tune.config_space import loguniform
from syne_tune.optimizer.baselines import RandomSearch

from benchmarks import asr_trial
from benchmarks.peers.work import METRIC, Work, parser

LOOKS = 0.1  # seconds between two looks of the tuner


def trial() -> None:
    """What the back end runs: parameters and constants of the space come as options."""
    options = parser()
    options.add_argument("--rate", type=float, required=True)
    options.add_argument("--st_checkpoint_dir", type=str)
    given = vars(options.parse_args())
    rate, own = given.pop("rate"), given.pop("st_checkpoint_dir")
    work, report = Work(**given), Reporter()
    folder = work.folder / "trials" / (Path(own).parent.name if own else str(os.getpid()))
    report(**{METRIC: work.run(folder, rate, lambda step, values: report(**values))})


def study(work: Work) -> None:
    os.environ["SYNETUNE_FOLDER"] = str(work.folder / "syne-tune")
    constants = {
        "trials": 1,
        "folder": str(work.folder),
        "steps": work.steps,
        "sleep": work.sleep,
        "reports": work.reports,
        "mlflow": work.mlflow,
    }
    space = {"rate": loguniform(asr_trial.LOWEST, asr_trial.HIGHEST), **constants}
    tuner = Tuner(
        trial_backend=LocalBackend(entry_point=__file__),
        scheduler=RandomSearch(space, metrics=[METRIC], do_minimize=True),
        stop_criterion=StoppingCriterion(max_num_trials_completed=work.trials),
        n_workers=work.slots,
        sleep_time=LOOKS,
    )
    tuner.run()
    if tuner.tuning_status.num_trials_failed:
        raise SystemExit(f"{tuner.tuning_status.num_trials_failed} trials failed")


if __name__ == "__main__":
    if "--rate" in sys.argv:
        trial()
    else:
        study(Work(**vars(parser().parse_args())))
