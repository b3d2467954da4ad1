"""The private names of Optuna: which of them are there, and that what is made of them does what it promises."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.samplers import QMCSampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from tests.compat.versions import gone, locked
from trialfleet.compat.optuna import (
    FIXED_PARAMS,
    JOURNAL_OPERATIONS,
    SEEN,
    backend_of,
    counts_qmc_points,
    forget_trials,
    select_user_attr,
    storage_of,
    study_id,
)


@pytest.fixture
def database(tmp_path: Path) -> RDBStorage:
    return RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")


@pytest.fixture
def study(database: RDBStorage) -> optuna.Study:
    return optuna.create_study(study_name="study", storage=database)


def test_the_locked_version_was_seen() -> None:
    assert locked("optuna") in SEEN, "if all else here passes with it, add it to SEEN in compat/optuna.py"


@pytest.mark.parametrize("name", ["_storage", "_study_id", "_thread_local"])
def test_a_study_has_the_private_names(study: optuna.Study, name: str) -> None:
    assert hasattr(study, name), gone("optuna", f"Study.{name}", SEEN)


def test_the_trials_that_samplers_see_are_kept_where_they_were(study: optuna.Study) -> None:
    assert hasattr(study._thread_local, "cached_all_trials"), gone("optuna", "Study._thread_local's trials", SEEN)


def test_a_study_tells_its_storage_and_its_id(database: RDBStorage) -> None:
    optuna.create_study(study_name="another", storage=database)
    study = optuna.create_study(study_name="study", storage=database)
    assert study_id(study) == storage_of(study).get_study_id_from_name("study")
    assert [trial.number for trial in storage_of(study).get_all_trials(study_id(study))] == []


def test_samplers_see_the_trials_of_this_moment(study: optuna.Study) -> None:
    """Optuna keeps what a sampler saw first for as long as a trial of `Study.ask` lives; ours are none of these."""
    seen = partial(study._get_trials, use_cache=True)
    assert len(seen()) == 0
    study.add_trial(create_trial(value=1.0))
    assert len(seen()) == 0, "Optuna does not keep the trials any more: forget_trials has nothing to do"
    forget_trials(study)
    assert len(seen()) == 1


def _cached(folder: Path) -> tuple[BaseStorage, object]:
    database = RDBStorage(f"sqlite:///{folder / 'study.db'}")
    return storage_of(optuna.create_study(storage=database)), database


def _journal(folder: Path) -> tuple[BaseStorage, object]:
    backend = JournalFileBackend(str(folder / "journal.log"))
    return JournalStorage(backend), backend


def _none(folder: Path) -> tuple[BaseStorage, object]:
    return InMemoryStorage(), None


@pytest.mark.parametrize("storage", [_cached, _journal, _none])
def test_what_is_behind_a_storage(tmp_path: Path, storage: Callable[[Path], tuple[BaseStorage, object]]) -> None:
    made, backend = storage(tmp_path)
    assert backend_of(made) is backend, gone("optuna", f"{type(made).__name__}._backend", SEEN)


def test_a_user_attribute_is_read_within_a_transaction(study: optuna.Study, database: RDBStorage) -> None:
    """As JSON, locked if one wants; another study's attribute of the same name is not taken for it."""
    other = optuna.create_study(study_name="other", storage=database)
    other.set_user_attr("key", "the other's")
    with database.scoped_session() as session:
        query = select_user_attr(study_id(study), "key").with_for_update(read=True)
        assert session.execute(query).scalar_one_or_none() is None
    study.set_user_attr("key", ["ours", 1])
    with database.scoped_session() as session:
        text = session.execute(select_user_attr(study_id(study), "key")).scalar_one_or_none()
    assert json.loads(text) == ["ours", 1]


def test_all_that_a_journal_says_is_known(tmp_path: Path) -> None:
    storage, path = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log"))), tmp_path / "journal.log"
    study = optuna.create_study(study_name="study", storage=storage)
    study.set_user_attr("key", "value")
    with pytest.warns(optuna.exceptions.ExperimentalWarning):  # of this call
        study.set_metric_names(["loss"])
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.report(1.0, 0)
    trial.set_user_attr("key", "value")
    trial.set_constraint("memory", 1.0)
    study.tell(trial, 1.0)
    optuna.delete_study(study_name="study", storage=storage)
    said = {json.loads(line)["op_code"] for line in path.read_text().splitlines()}
    assert len(said) >= 9
    assert said <= JOURNAL_OPERATIONS


def test_a_trial_takes_the_values_that_it_must(study: optuna.Study) -> None:
    """A trial that runs from its first moment on gets its values as one that was enqueued does."""
    study.enqueue_trial({"x": 0.25})
    assert study.trials[0].system_attrs == {FIXED_PARAMS: {"x": 0.25}}
    template = create_trial(state=TrialState.RUNNING, system_attrs={FIXED_PARAMS: {"x": 0.75}})
    trial = optuna.trial.Trial(study, storage_of(study).create_new_trial(study_id(study), template_trial=template))
    assert trial.suggest_float("x", 0, 1) == 0.75


def test_a_qmc_sampler_notes_each_point_in_the_study(study: optuna.Study) -> None:
    """And `sample_relative`, by which points are skipped, uses up one whichever trial it is called for."""
    with pytest.warns(optuna.exceptions.ExperimentalWarning):  # of each that is made
        sampler, another = QMCSampler(seed=1), QMCSampler(seed=1)
    study.add_trial(create_trial(value=1.0, params={"x": 0.5}, distributions={"x": _UNIT}))
    assert not counts_qmc_points(study)
    first = study.trials[0]
    points = [sampler.sample_relative(study, first, {"x": _UNIT})["x"] for _ in range(3)]
    assert counts_qmc_points(study)
    assert len(set(points)) == 3
    study.sampler = another
    assert study.ask({"x": _UNIT}).params["x"] not in points


_UNIT = optuna.distributions.FloatDistribution(0.0, 1.0)
