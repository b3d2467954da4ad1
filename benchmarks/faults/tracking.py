"""MLflow beside the study: its file is locked, damaged, or somebody deletes runs; the delivery log is damaged."""

import sqlite3

from benchmarks.faults.fault import fault
from benchmarks.faults.files import damage
from benchmarks.faults.storage import held_for_a_moment
from benchmarks.faults.study import Study

CLASS = "tracking"
OF_STUDY = "SELECT run_uuid FROM tags WHERE key = 'trialfleet.kind' AND value = 'study'"


@fault(CLASS)
def delete_the_study_run(study: Study) -> bool:
    """As a person does in MLflow's pages."""
    query = f"UPDATE runs SET lifecycle_stage = 'deleted', deleted_time = 1 WHERE run_uuid IN ({OF_STUDY})"
    database = sqlite3.connect(study.tracking, timeout=10)
    try:
        with database:
            return bool(database.execute(query).rowcount)
    except sqlite3.DatabaseError:  # the study has it, or another fault damaged it
        return False
    finally:
        database.close()


@fault(CLASS)
def lock_the_tables(study: Study) -> bool:
    return held_for_a_moment(study, study.tracking)


@fault(CLASS, between=True)
def damage_the_delivery_log(study: Study) -> bool:
    logs = list(study.folder.glob("mlflow-*.jsonl"))
    return bool(logs) and damage(study, logs[0])


@fault(CLASS, between=True)
def delete_the_delivery_log(study: Study) -> bool:
    logs = list(study.folder.glob("mlflow-*.jsonl"))
    for log in logs:
        log.unlink()
    return bool(logs)


@fault(CLASS, between=True)
def damage_the_tables(study: Study) -> bool:
    """mlflow.db is noise; a while later a person moves it away, and a new one is there."""
    for part in study.place.glob("mlflow.db*"):
        part.unlink()
    study.tracking.write_bytes(bytes(study.chance.randrange(256) for _ in range(5000)))

    def move_away() -> None:
        for part in study.place.glob("mlflow.db*"):
            part.rename(part.with_name(f"old.{part.name}"))
        study.provide_tables()

    study.later(0.5, 3.0, move_away)
    return True


@fault(CLASS, between=True)
def lose_the_tables(study: Study) -> bool:
    """mlflow.db is gone, and an empty one is there."""
    for part in study.place.glob("mlflow.db*"):
        part.unlink()
    study.provide_tables()
    return True
