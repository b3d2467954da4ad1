"""A study's trials as a pandas frame. pandas is imported with it, and nowhere else."""

import pandas as pd

from trialfleet.review.fields import columns, flat, trial_fields
from trialfleet.review.studies import Study

_TIMES = ("started", "ended")


def frame(study: Study) -> pd.DataFrame:
    """One row a trial, by number, with the columns of the CSV; times are UTC, what is missing is NaN or NaT."""
    trials = [trial_fields(study, row) for row in study.rows]
    table = pd.DataFrame([flat(trial) for trial in trials], columns=columns(trials))
    for name in _TIMES:
        table[name] = pd.to_datetime(table[name], unit="s", utc=True)
    return table.set_index("number")
