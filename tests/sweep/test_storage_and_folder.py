"""A study is in its folder and in its storage: whatever happens to either, no trial gets another one's result."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterable

import optuna
import pytest

from tests.tasks.descent import undisturbed
from tests.tasks.forked import QuickStudy

NewQuickStudy = Callable[..., QuickStudy]
STEPS = 4
TWO = "hydra.sweeper.n_trials=2"
IN_DATABASE = "hydra.sweeper.storage=sqlite:///study.db"


def trials(study: QuickStudy, url: str | None = None) -> list[optuna.trial.FrozenTrial]:
    """The trials, by plain Optuna."""
    if url is None:
        return study.stored()
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name="descent", storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def check(study: QuickStudy, count: int, url: str | None = None) -> None:
    """Each trial is there once, complete, with the value of its own parameters, in the study and in its folder."""
    stored = trials(study, url)
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * count, study.report()
    for trial in stored:
        record = json.loads((study.trial(trial.number).trial_json).read_text())
        result = json.loads((study.trial(trial.number).result_json).read_text())
        assert record["params"] == trial.params
        assert trial.values == result["objectives"] == [undisturbed(trial.params["x"], trial.params["y"], STEPS)]
    assert study.numbers() == list(range(count))


def database(study: QuickStudy, name: str = "study") -> str:
    return f"sqlite:///{study.place / name}.db"


# -------------------------------------------------------------------- another storage than the study's


def test_a_storage_that_is_not_the_studys_is_refused(finished_study: NewQuickStudy) -> None:
    """Today's trials would take the numbers, and the results, of the old ones."""
    in_folder, in_database = finished_study(TWO), finished_study(TWO, IN_DATABASE)
    own, other = database(in_database), database(in_folder, "other")
    allowed = "study.allow_changes=[hydra.sweeper.storage]"
    for study, storage, names in (
        (in_database, "null", [own, "in its own folder (null)"]),
        (in_database, other, [own, other]),
        (in_folder, other, ["in its own folder (null)", other]),
    ):
        said = study.run("hydra.sweeper.n_trials=3", f"hydra.sweeper.storage={storage}", code=1)
        assert all(name in said for name in names)
    said = in_folder.run("hydra.sweeper.n_trials=3", f"hydra.sweeper.storage={other}", allowed, code=1)
    assert "knows nothing of this study" in said
    for study, url in ((in_database, own), (in_folder, None)):
        study.run("hydra.sweeper.n_trials=3")
        check(study, 3, url)


def test_a_password_is_not_shown_where_a_storage_is_refused(finished_study: NewQuickStudy) -> None:
    said = finished_study(TWO).run("hydra.sweeper.storage=postgresql://me:s3cret@nowhere/db", code=1)
    assert "postgresql://me:***@nowhere/db" in said
    assert "s3cret" not in said


def test_the_same_file_by_another_name_is_the_same_storage_and_by_a_link_with_permission(
    finished_study: NewQuickStudy,
) -> None:
    study = finished_study(TWO, IN_DATABASE)
    study.run("hydra.sweeper.n_trials=3", f"hydra.sweeper.storage={database(study)}")
    check(study, 3, database(study))
    (study.place / "link.db").symlink_to("study.db")
    other = f"hydra.sweeper.storage={database(study, 'link')}"
    study.run("hydra.sweeper.n_trials=4", other, code=1)
    said = study.run("hydra.sweeper.n_trials=4", other, "study.allow_changes=[hydra.sweeper.storage]")
    assert "allow_changes" not in said.rpartition("resume:")[2]
    check(study, 4, database(study))
    study.run("hydra.sweeper.n_trials=4", other)


AWAY = """
import sqlite3
from pathlib import Path
from sqlalchemy.exc import OperationalError
from trialfleet.errors import UserError
from trialfleet.sweep import session
from trialfleet.sweep.study import storage
opened, refusals = storage.open_database, []
def refuses(address):
    if len(refusals) < {times}:
        refusals.append(address)
        reason = OperationalError("connect", None, sqlite3.OperationalError("database is locked"))
        raise UserError("hydra.sweeper.storage: cannot be opened: locked") from reason
    return opened(address)
storage.open_database = refuses
session.START_AGAIN = 0.01
"""


def test_a_start_waits_for_a_storage_that_is_away_if_the_study_has_begun(
    quick_study: NewQuickStudy, finished_study: NewQuickStudy
) -> None:
    said = quick_study(TWO, IN_DATABASE).run(code=1, first=AWAY.format(times=1))
    assert "cannot be opened" in said  # a new one's may be a slip
    study = finished_study(TWO, IN_DATABASE)
    said = study.run("hydra.sweeper.n_trials=3", first=AWAY.format(times=3))
    assert said.count("waiting until it passes") == 1
    check(study, 3, database(study))
    said = study.run("hydra.sweeper.patience=0.05", code=1, first=AWAY.format(times=10**6))
    assert "cannot be opened" in said


# -------------------------------------------------------------------- a storage that is gone, and the study made anew


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_a_storage_that_is_gone_is_made_anew_when_the_user_says_so(finished_study: NewQuickStudy, kind: str) -> None:
    study = finished_study(TWO, IN_DATABASE) if kind == "database" else finished_study(TWO)
    url = database(study) if kind == "database" else None
    before = trials(study, url)
    (study.place / "study.db" if url else study.folder / "optuna_journal.log").unlink()
    assert "study.rebuild=true" in study.run("hydra.sweeper.n_trials=3", code=1)
    said = study.run("hydra.sweeper.n_trials=3", "study.rebuild=true")
    assert "2 trials from their files" in said
    assert "study.rebuild" not in said.rpartition("resume:")[2]
    for old, new in zip(before, trials(study, url), strict=False):
        assert (old.params, old.values, old.state, old.distributions) == (
            new.params,
            new.values,
            new.state,
            new.distributions,
        )
    check(study, 3, url)


def test_a_study_moves_to_another_storage(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    study.run(f"hydra.sweeper.storage={database(study)}", "study.rebuild=true", "hydra.sweeper.n_trials=3")
    check(study, 3, database(study))
    study.run(f"hydra.sweeper.storage={database(study)}", "hydra.sweeper.n_trials=4")
    check(study, 4, database(study))


def known_by_the_study_alone(study: QuickStudy, url: str | None) -> set[tuple[float, float]]:
    """The parameters of its trials, each complete; the folder of one of them is deleted."""
    stored = trials(study, url)
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * len(stored)
    shutil.rmtree(study.trial(len(stored) - 1).path)
    return {(trial.params["x"], trial.params["y"]) for trial in stored}


def more_than(known: set[tuple[float, float]], study: QuickStudy, url: str | None) -> set[tuple[float, float]]:
    """What `known_by_the_study_alone` gives: all that was known before, and more."""
    now = known_by_the_study_alone(study, url)
    assert known < now
    return now


Kinds = tuple[str | None, ...]  # names of databases, None for the journal


QMC = ("hydra.sweeper.n_jobs=1", "hydra/sweeper/sampler=qmc")  # a point that was asked for twice can be told


def die_at(study: QuickStudy, moments: Iterable[int], *command: str) -> int:
    """Run a command that is killed at these moments, one after the other, until it ends by itself.

    Returns:
        how often it was killed.
    """
    killed = 0
    for moment in moments:
        code = study.order(*command, first=DIE.format(moment=moment))
        if code == 0:
            return killed
        assert code == 9, study.report()
        killed += 1
    study.run(*command)
    return killed


def move_and_die(study: QuickStudy, kinds: Kinds, moments: Iterable[int]) -> int:
    """Move a study of two trials, by a command that is killed, to a storage that has an older one, and go on there.

    Args:
        study: is in the second storage; it is moved to the first before.
    """
    urls = [database(study, name) if name else None for name in kinds]
    old, new = (f"hydra.sweeper.storage={url or 'null'}" for url in urls)
    study.run(old, "study.rebuild=true", "hydra.sweeper.n_trials=3")
    known = known_by_the_study_alone(study, urls[0])
    killed = die_at(study, moments, new, "study.rebuild=true", "hydra.sweeper.n_trials=4")
    assert not (study.folder / ".rebuild.json").exists()
    known = more_than(known, study, urls[1])
    assert len(known) == 4
    return killed


MOVES = {
    "to the journal": (("study", None), (*QMC, TWO)),
    "to the database": ((None, "study"), (*QMC, TWO, IN_DATABASE)),
}


def test_a_move_that_was_killed_is_done_again(finished_study: NewQuickStudy) -> None:
    """One way and at one moment; benchmarks/proofs takes each."""
    kinds, begun = MOVES["to the journal"]
    assert move_and_die(finished_study(*begun), kinds, (1,)) == 1


def test_a_storage_whose_password_is_not_recorded_is_said_not_to_be_read(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    record = study.folder / "study.yaml"
    record.write_text(record.read_text().replace("storage: 'null'", "storage: postgresql://me:***@nowhere/db"))
    said = study.run("study.rebuild=true", "hydra.sweeper.n_trials=3")
    assert "postgresql://me:***@nowhere/db: cannot be read" in said
    assert "the study is made anew without it" in said
    check(study, 3)


def test_a_refused_rebuild_leaves_the_study_as_it_was(
    quick_study: NewQuickStudy, finished_study: NewQuickStudy
) -> None:
    """One into a storage where another folder's study has its name, and one with a folder that is not the study's."""
    study, other = finished_study(TWO), quick_study(TWO, IN_DATABASE)
    other.run()  # not a copy of a copy: it says where its folder is
    before = (study.folder / "optuna_journal.log").read_bytes()
    theirs = f"hydra.sweeper.storage={database(other)}"
    assert "belongs to the sweep folder" in study.run(theirs, "study.rebuild=true", code=1)
    (study.folder / "trials" / "9900000").mkdir()
    (study.folder / "trials" / "9900000" / "trial.json").write_text("{}")
    assert "far beyond" in study.run("study.rebuild=true", code=1)
    shutil.rmtree(study.folder / "trials" / "9900000")
    assert not (study.folder / ".rebuild.json").exists()
    assert (study.folder / "optuna_journal.log").read_bytes() == before
    assert "made anew" not in study.run("hydra.sweeper.n_trials=3")
    check(study, 3)
    other.run()
    check(other, 2, database(other))


# Ends a rebuild at the n-th of its moments: each call that changes something.
DIE = """
import os
from trialfleet.sweep.study import rebuild
from trialfleet.sweep.study.storage import StudyStorage

passed = 0

def dying(real):
    def call(*given, **named):
        global passed
        if passed == {moment}:
            os._exit(9)
        passed += 1
        return real(*given, **named)
    return call

StudyStorage.add, StudyStorage.belong = dying(StudyStorage.add), dying(StudyStorage.belong)
rebuild._begin, rebuild._read = dying(rebuild._begin), dying(rebuild._read)
rebuild.put_study_aside, rebuild.end = dying(rebuild.put_study_aside), dying(rebuild.end)
rebuild.Rebuild._put_journal_aside = dying(rebuild.Rebuild._put_journal_aside)
rebuild.optuna.delete_study = dying(rebuild.optuna.delete_study)
"""


def test_a_storage_that_refuses_for_good_ends_the_command_with_its_words(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO, IN_DATABASE)
    read_only = """
import sqlite3
from optuna.exceptions import StorageInternalError
from trialfleet.sweep.study.storage import StudyStorage
def tell(*given):
    raise StorageInternalError("no commit") from sqlite3.OperationalError("attempt to write a readonly database")
StudyStorage.tell = tell
"""
    said = study.run("hydra.sweeper.n_trials=3", code=1, first=read_only)
    assert "hydra.sweeper.storage: attempt to write a readonly database" in said
    assert "Traceback" not in said
    study.run("hydra.sweeper.n_trials=3")
    check(study, 3, database(study))


def test_a_dry_run_makes_no_database(quick_study: NewQuickStudy) -> None:
    study = quick_study("hydra.sweeper.n_trials=1")
    assert "1 trials, 2 at a time" in study.run(f"hydra.sweeper.storage={database(study)}", "dry_run=true")
    nowhere = f"hydra.sweeper.storage=sqlite:///{study.place}/nowhere/study.db"
    assert "cannot be opened" in study.run(nowhere, "dry_run=true", code=1)
    assert not list(study.place.glob("*.db"))


def rebuild_and_die(study: QuickStudy, url: str | None, moments: Iterable[int]) -> int:
    """Make a study of two trials anew by a command that is killed, and go on with it.

    What only the study knew, a trial without files and the sampler's state, is there still.
    """
    shutil.rmtree(study.trial(1).path)
    killed = die_at(study, moments, "study.rebuild=true", "hydra.sweeper.n_trials=4")
    assert not (study.folder / ".rebuild.json").exists()
    stored = trials(study, url)
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * 4
    assert len({tuple(trial.params.values()) for trial in stored}) == 4
    return killed


def test_a_rebuild_that_was_killed_is_done_again_by_the_next_command(finished_study: NewQuickStudy) -> None:
    """In a database and at one moment; benchmarks/proofs takes each, of a journal, too."""
    study = finished_study(*QMC, TWO, IN_DATABASE)
    assert rebuild_and_die(study, database(study), (4,)) == 1


AFTER_THE_VERDICT = """
import time
from tests.tasks import dying
from trialfleet.trial import run as runs

def task(cfg):
    run = runs.current()
    run.report(1, {"loss": 34.5})
    while run.stop() is not runs.Stop.PRUNE:
        time.sleep(0.01)
    run.report(2, {"loss": 3.25})
    raise runs.Pruned

dying.task = task
"""


JUDGED = ("hydra/sweeper/pruner=threshold", "++hydra.sweeper.pruner.upper=30")
ONE_PRUNED = ("hydra.sweeper.n_trials=1", "hydra.sweeper.max_failure_rate=1", *JUDGED)


@pytest.mark.parametrize("kind", ["kept", "lost", "without a pruner"])
def test_a_pruned_trial_is_the_same_when_the_study_is_made_anew(finished_study: NewQuickStudy, kind: str) -> None:
    """Its value is its last report before the verdict, whatever it reported before it heard of that."""
    study = finished_study(*ONE_PRUNED, first=AFTER_THE_VERDICT)
    (before,) = study.stored()
    assert (before.state.name, before.value, before.intermediate_values) == ("PRUNED", 34.5, {1: 34.5})
    if kind == "lost":
        (study.folder / "optuna_journal.log").unlink()
    if kind == "without a pruner":
        study.overrides = ONE_PRUNED[: -len(JUDGED)]
    study.run("study.rebuild=true")
    (after,) = study.stored()
    assert (after.state, after.value, after.intermediate_values) == (before.state, 34.5, {1: 34.5})


def test_a_pruned_trial_that_lost_its_value_gets_it_back(finished_study: NewQuickStudy) -> None:
    """As rebuilds of an earlier version left it."""
    study = finished_study(*ONE_PRUNED, first=AFTER_THE_VERDICT)
    log = study.folder / "optuna_journal.log"
    assert '"values":[34.5]' in log.read_text()
    log.write_text(log.read_text().replace('"values":[34.5]', '"values":null'))
    assert "the study has PRUNED None, and {1: 34.5} for its reports" in study.run()
    assert study.stored()[0].value == 34.5


def test_a_qmc_sequence_goes_on_though_its_count_is_lost_with_the_study(finished_study: NewQuickStudy) -> None:
    study = finished_study(*QMC, TWO)
    (study.folder / "optuna_journal.log").unlink()
    study.run("study.rebuild=true", "hydra.sweeper.n_trials=4")
    assert len({tuple(trial.params.values()) for trial in trials(study)}) == 4


def test_trials_of_others_keep_their_numbers_when_the_study_is_made_anew(finished_study: NewQuickStudy) -> None:
    """A shared storage: somebody else's trial has number 2."""
    study = finished_study(TWO, IN_DATABASE)
    storage = optuna.storages.RDBStorage(database(study))
    optuna.load_study(study_name="descent", storage=storage).add_trial(
        optuna.trial.create_trial(value=0.5, user_attrs={"whose": "theirs"})
    )
    storage.remove_session()
    storage.engine.dispose()
    study.run("hydra.sweeper.n_trials=3")
    study.run("study.rebuild=true", "hydra.sweeper.n_trials=4")
    stored = trials(study, database(study))
    assert [trial.user_attrs.get("whose") for trial in stored] == [None, None, "theirs", None, None]
    assert study.numbers() == [0, 1, 3, 4]


# -------------------------------------------------------------------- the study and the files disagree


def lines(study: QuickStudy) -> list[str]:
    return (study.folder / "optuna_journal.log").read_text().splitlines(keepends=True)


ONE_BY_ONE = ("hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1")


def lose_lines(study: QuickStudy, numbers: Iterable[int]) -> int:
    """Let a journal lose so many of its last lines, and the next command mend it, each time.

    Returns:
        how many lines the journal has.
    """
    whole = lines(study)
    for lost in numbers:
        (study.folder / "optuna_journal.log").write_text("".join(whole[:-lost]))
        study.run()
        check(study, 3)
    return len(whole)


def test_a_journal_whose_end_was_lost_is_mended_by_the_files(finished_study: NewQuickStudy) -> None:
    """Numbers of acknowledged lines that a disk may have lost with its power; benchmarks/proofs takes each."""
    study = finished_study(*ONE_BY_ONE)
    lose_lines(study, (3, len(lines(study)) - 4))


def test_what_the_study_lost_or_has_otherwise_is_said_and_mended(finished_study: NewQuickStudy) -> None:
    """A parameter of one trial, and the value of another one."""
    study = finished_study(*ONE_BY_ONE)
    whole = lines(study)
    parameter = next(index for index, line in enumerate(whole) if '"param_name":"y"' in line)
    value = json.loads(study.trial(1).result_json.read_text())["objectives"][0]
    rest = "".join(whole[:parameter] + whole[parameter + 1 :])
    (study.folder / "optuna_journal.log").write_text(rest.replace(repr(value), "0.125"))
    said = study.run()
    assert "trial 0: the study has the parameters {'x'" in said
    assert "the study has COMPLETE [0.125]" in said
    check(study, 3)


def test_a_database_that_differs_is_left_as_it_is_until_the_user_says_so(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO, IN_DATABASE)
    with sqlite3.connect(study.place / "study.db") as connection:
        connection.execute("UPDATE trial_values SET value = 0.125 WHERE trial_id = 1")
    connection.close()
    said = study.run(code=1)
    assert "trial 0: the study has COMPLETE [0.125]" in said
    assert "study.rebuild=true" in said
    assert trials(study, database(study))[0].value == 0.125
    study.run("study.rebuild=true")
    check(study, 2, database(study))


def test_a_number_whose_folder_holds_a_trial_is_never_asked_for(finished_study: NewQuickStudy) -> None:
    """Somebody copied it there while the driver ran."""
    study = finished_study(TWO)
    copy = """
import shutil
from trialfleet.sweep.driver import Driver
recover = Driver.recover
def copies(self):
    recover(self)
    shutil.copytree(self.study.folder / "trials/00000", self.study.folder / "trials/00002")
Driver.recover = copies
"""
    said = study.run("hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1", code=1, first=copy)
    assert f"{study.folder / 'trials/00002'}: holds a trial" in said
    assert len(study.stored()) == 2


def test_a_result_of_another_trial_is_not_told(finished_study: NewQuickStudy) -> None:
    """A result.json from elsewhere in the place of one that is not there yet."""
    study = finished_study(TWO)
    foreign = """
import shutil
from trialfleet.trial.submission import TrialRecord
write, struck = TrialRecord.write, []
def copies(self, path, synced=True):
    write(self, path, synced)
    if self.number == 2 and not struck:
        struck.append(shutil.copy(path.parent.parent / "00000/result.json", path.parent / "result.json"))
TrialRecord.write = copies
"""
    said = study.run("hydra.sweeper.n_trials=3", first=foreign)
    assert "is the result of another trial" in said
    check(study, 3)
    assert list(study.trial(2).path.glob("result.json.damaged-*"))


def test_a_study_without_its_study_yaml_is_refused(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    whole = (study.folder / "study.yaml").read_text()
    (study.folder / "study.yaml").unlink()
    assert f"{study.folder / 'study.yaml'}: is missing" in study.run("hydra.sweeper.n_trials=3", code=1)
    assert not (study.folder / "study.yaml").exists()
    (study.folder / "study.yaml").write_text(whole)
    study.run("hydra.sweeper.n_trials=3")
    check(study, 3)


# -------------------------------------------------------------------- a fresh start


def test_a_fresh_start_puts_the_old_study_aside_in_a_database_too(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO, IN_DATABASE)
    first = [trial.params for trial in trials(study, database(study))]
    said = study.run("study.fresh=true")
    assert "study.fresh" not in said.rpartition("resume:")[2]
    study.run("hydra.sweeper.n_trials=3")
    check(study, 3, database(study))
    assert [trial.params for trial in trials(study, database(study))][:2] != first
    storage = optuna.storages.RDBStorage(database(study))
    names = sorted(one.study_name for one in storage.get_all_studies())
    aside = optuna.load_study(study_name=names[1], storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    assert [trial.params for trial in aside] == first
    assert names[0] == "descent"
    assert names[1].startswith("descent.before-")
    assert len(list(study.folder.parent.glob("descent.before-*"))) == 1


STEPS_OF_A_FRESH_START = {
    "begin": "fresh_start.finish = dies",
    "put_study_aside": "fresh_start.put_study_aside = dies",
    "rename": "Path.rename = dies",
    "unlink": "unlink = Path.unlink\n"
    "Path.unlink = lambda self, **named: (dies if self.name.endswith('.fresh.json') else unlink)(self, **named)",
}


def begin_anew_and_die(study: QuickStudy, step: str) -> None:
    """A fresh start, in a database, that is killed before one of its steps is finished by the next command."""
    die = "import os\nfrom pathlib import Path\nfrom trialfleet.sweep.study import fresh_start\n"
    die += f"def dies(*_, **__):\n    os._exit(9)\n{STEPS_OF_A_FRESH_START[step]}"
    study.run("study.fresh=true", code=9, first=die)
    said = study.run("hydra.sweeper.n_trials=1")
    assert "a fresh start that was interrupted is finished" in said
    check(study, 1, database(study))
    assert len(list(study.folder.parent.glob("descent.before-*"))) == 1
    study.run()
    check(study, 2, database(study))


def test_a_fresh_start_that_was_killed_is_finished_by_the_next_command(finished_study: NewQuickStudy) -> None:
    """Between its study and its folder; benchmarks/proofs takes each step."""
    begin_anew_and_die(finished_study(TWO, IN_DATABASE), "rename")


def test_a_study_that_is_being_put_aside_gets_no_driver_meanwhile(finished_study: NewQuickStudy) -> None:
    study = finished_study(TWO)
    meanwhile = """
from trialfleet.sweep.study import fresh_start
from trialfleet.sweep.study.lease import Lease
finish = fresh_start.finish
def tries(folder, storage):
    try:
        Lease(folder / "driver.lock", 60.0, 0.05).acquire()
    except Exception as refusal:
        print("refused:", refusal)
    return finish(folder, storage)
fresh_start.finish = tries
"""
    assert "refused: this study has a driver already" in study.run(
        "study.fresh=true", "hydra.sweeper.n_trials=1", first=meanwhile
    )
    check(study, 1)


def test_what_another_driver_did_before_the_lease_was_taken_stays(finished_study: NewQuickStudy) -> None:
    """study.yaml is what it is when this driver has the lease, not what it was when the command was checked."""
    study = finished_study(TWO)
    meanwhile = """
from pathlib import Path
from trialfleet.sweep.study.lease import Lease
acquire = Lease.acquire
def late(self, *given):
    record = self._directory.parent / "study.yaml"
    record.write_text(record.read_text().replace("former_uids: []", "former_uids: [abc]"))
    acquire(self, *given)
Lease.acquire = late
"""
    study.run("hydra.sweeper.n_trials=3", first=meanwhile)
    assert "- abc" in (study.folder / "study.yaml").read_text()
    check(study, 3)
