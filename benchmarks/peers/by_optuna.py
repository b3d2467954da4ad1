"""Plain Optuna: one of several processes that work on one study, in a journal, by `study.optimize`.

https://optuna.readthedocs.io/en/stable/tutorial/10_key_features/004_distributed.html. Each is told how many trials it
is to run, so that together they run no more than they should.
"""

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks import asr_trial
from benchmarks.peers.work import METRIC, Work, parser


def main() -> None:
    work = Work(**vars(parser().parse_args()))

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("rate", asr_trial.LOWEST, asr_trial.HIGHEST, log=True)
        return work.run(work.folder / str(trial.number), rate, lambda step, values: trial.report(values[METRIC], step))

    work.folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(work.folder / "journal.log")))
    sampler = optuna.samplers.RandomSampler()
    study = optuna.create_study(study_name="asr", storage=storage, sampler=sampler, load_if_exists=True)
    study.optimize(objective, n_trials=work.trials)


if __name__ == "__main__":
    main()
