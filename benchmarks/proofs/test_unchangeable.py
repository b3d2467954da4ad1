"""What a study can never have together with its trials is refused, where the study is in its folder, too."""

from tests.sweep.study.test_unchangeable import NewQuickStudy, refuse_other_objectives
from tests.sweep.test_storage_and_folder import TWO


def test_other_objectives_are_refused(finished_study: NewQuickStudy) -> None:
    refuse_other_objectives(finished_study(TWO))
