"""What a study on a real Slurm does that the tests show on a faked one, or of a study with more trials."""

from pathlib import Path

import pytest

from jobs.cluster import Cluster
from tests.cluster.conftest import cluster, new_study, slurm_environment  # noqa: F401  # fixtures
from tests.cluster.test_calls import ends_with_four_calls_a_minute
from tests.cluster.test_study_on_slurm import N, job_of
from tests.tasks.studies import NewStudy

LONG = ("steps=60", "seconds=0.1")  # six seconds: long enough to do something to it
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_array_parallelism_limits_the_jobs_in_flight(new_study: NewStudy) -> None:  # noqa: F811  # as above
    study = new_study(f"{N}3", "hydra.sweeper.n_jobs=3", "hydra.launcher.array_parallelism=1")
    study.run()
    study.check(3)
    ends = [study.trial(number).result_json.stat().st_mtime for number in range(3)]
    starts = [(study.trial(number).run_dir("1.0") / "claim").stat().st_mtime for number in range(3)]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))


def test_pruned_jobs_end_soon_after_their_verdict(new_study: NewStudy) -> None:  # noqa: F811  # as above
    points = "hydra.sweeper.enqueue=[{x:1.5,y:0.1},{x:0.1,y:0.1},{x:0.11,y:0.1}]"
    pruner = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1")
    study = new_study(f"{N}3", "hydra.sweeper.n_jobs=1", "steps=40", "seconds=0.1", *pruner, points)
    study.run()
    assert [trial.state.name for trial in study.stored()] == ["COMPLETE", "PRUNED", "PRUNED"]
    for number in (1, 2):
        assert study.steps(number, "1.0")[-1] < 40


def test_one_of_several_jobs_is_cancelled_and_the_others_go_on(cluster: Cluster, new_study: NewStudy) -> None:  # noqa: F811  # as above
    study = new_study(f"{N}3", "hydra.sweeper.n_jobs=3", *LONG)
    driver = study.start()
    study.wait_for(lambda: len(study.running()) == 3 and len(study.saved(0)) >= 2, driver)
    cluster.run("scancel", job_of(study, 0))
    study.finish(driver)
    study.check(3, steps=60)
    assert [study.labels(number) for number in range(3)] == [["1.0", "2.0"], ["1.0"], ["1.0"]]


def test_a_warned_job_saves_at_no_other_step(cluster: Cluster, new_study: NewStudy) -> None:  # noqa: F811  # as above
    study = new_study(f"{N}1", *LONG, "hydra.launcher.use_srun=true", "save_every=1000")
    driver = study.start()
    study.wait_for(lambda: bool(study.running()) and study.steps(0, "1.0")[-1:] > [5], driver)
    cluster.run("scancel", "--signal=USR2", job_of(study, 0))
    study.finish(driver)
    study.check(1, steps=60)
    assert study.labels(0) == ["1.0", "1.1"]
    assert study.steps(0, "1.1")[0] == study.steps(0, "1.0")[-1] + 1


def test_a_trial_longer_than_its_jobs_time_limit_completes(cluster: Cluster, new_study: NewStudy) -> None:  # noqa: F811  # as above
    """Slurm itself warns the first run, at its next look at all limits: there is one in 30 s."""
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=55", "hydra.launcher.use_srun=true")
    study = new_study(f"{N}1", *limits, "mode=wait", "steps=20", "save_every=1000")
    driver = study.start()
    study.wait_for(lambda: bool(study.labels(0)) and study.labels(0)[-1] != "1.0", driver)
    # That was the time limit's doing, and nothing else could have ended the first run. One limit is enough for a test.
    cluster.run("scontrol", "update", f"jobid={job_of(study, 0)}", "TimeLimit=10", check=False)
    study.finish(driver)
    study.check(1, steps=20)
    assert {label.partition(".")[0] for label in study.labels(0)} == {"1"}


def test_restarts_after_a_time_limit_are_capped_where_asked(cluster: Cluster, new_study: NewStudy) -> None:  # noqa: F811  # as above
    """The warning is the test's, before Slurm's: `test_a_trial_longer_than_its_jobs_time_limit_completes` has that."""
    limits = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=45", "hydra.launcher.use_srun=true")
    endless = ("hydra.launcher.max_num_timeout=1", "mode=hang", "hydra.sweeper.max_failure_rate=1.0")
    study = new_study(f"{N}1", *limits, *endless)
    driver = study.start()
    for label in ("1.0", "1.1"):
        study.wait_for(lambda label=label: study.steps(0, label), driver)
        if study.labels(0)[-1] == label:  # on a machine that is slow enough, Slurm was quicker
            cluster.run("scancel", "--signal=USR2", job_of(study, 0), check=False)
    study.finish(driver)
    assert "2 time limits, more than max_num_timeout=1" in study.said()
    assert study.states() == {"FAIL": 1}


def test_a_driver_that_finds_no_controller_begins_when_it_is_there(cluster: Cluster, new_study: NewStudy) -> None:  # noqa: F811  # as above
    study = new_study(f"{N}1")
    cluster.stop_controller()
    driver = study.start()
    study.wait_for(lambda: "slurm does not answer" in study.said(), driver)
    cluster.start_controller()
    study.finish(driver)
    study.check(1)


def test_a_study_with_a_job_for_each_trial_ends_with_four_calls_a_minute(
    new_study: NewStudy,  # noqa: F811  # as above
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends_with_four_calls_a_minute(new_study, tmp_path, monkeypatch)
