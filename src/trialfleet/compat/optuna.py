"""What a driver needs of Optuna that has no public name.

`Study._storage`, `Study._study_id`
    The storage has methods that the study does not: a new trial that is RUNNING with our mark on it from its first
    moment on, system attributes, a trial's values without a copy of all trials. They take the study's id. The
    public way to it asks the storage by the study's name, which may be another study's by then.
`Study._thread_local`
    Holds the trials that samplers and pruners look at. `Study.ask` drops them, and is the only public way to; but it
    makes a trial, too.
`_CachedStorage._backend`, `JournalStorage._backend`
    The database, or the journal's file, behind a storage: Optuna wraps the one without being asked, and gives
    the other back to nobody.
`optuna.storages._rdb.models`
    The tables of a database, as the storage's own transactions see them. The storage's public methods read a user
    attribute in a transaction of their own, which is too late for a transaction that is about to be committed.
`optuna.storages.journal._storage.JournalOperation`
    What the records of a journal can say. A damaged line passes for a record otherwise, and fails later.
The keys `fixed_params` of a trial and `qmc:…` of a study, among their system attributes
    What `Study.enqueue_trial` and `QMCSampler` write. Both write them only together with what is not wanted here: a
    trial that waits, and a point of the sequence that is used up.
"""

from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from optuna.storages.journal._storage import JournalOperation
from optuna.study import Study

if TYPE_CHECKING:
    from sqlalchemy import Select

SEEN = ("5.0.0",)

FIXED_PARAMS = "fixed_params"  # system attribute of a trial: the values that it must take, by parameter
JOURNAL_OPERATIONS = frozenset(int(operation) for operation in JournalOperation)  # what a record's op_code can be


def storage_of(study: Study) -> BaseStorage:
    """The storage that the study is in, as Optuna wrapped it."""
    return study._storage


def study_id(study: Study) -> int:
    """The study's id in its storage."""
    return study._study_id


def forget_trials(study: Study) -> None:
    """Let samplers and pruners see the study's trials as they are now, as `Study.ask` does before it makes one."""
    study._thread_local.cached_all_trials = None


def backend_of(storage: BaseStorage) -> object | None:
    """What a storage keeps its trials in: a database behind its cache, the backend of a journal; None of others."""
    backend: object | None = getattr(storage, "_backend", None)
    return backend


def select_user_attr(study_id: int, key: str) -> "Select[tuple[Any]]":
    """A statement that reads a study's user attribute from a database, as JSON; no row if the study has none."""
    # Both take long to import, and most studies have no database.
    from optuna.storages._rdb.models import StudyUserAttributeModel
    from sqlalchemy import select

    model = StudyUserAttributeModel
    return select(model.value_json).where(model.study_id == study_id, model.key == key)


def counts_qmc_points(study: Study) -> bool:
    """Whether a QMC sampler has noted in the study how many points of its sequence are used up."""
    return any(key.startswith("qmc:") for key in study._storage.get_study_system_attrs(study._study_id))
