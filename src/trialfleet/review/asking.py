"""Asking a study's driver for something, and waiting for what it says. Nothing here writes more than the request."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trialfleet.errors import UserError, nearest
from trialfleet.review.studies import Study
from trialfleet.sweep.study import lease, requests
from trialfleet.sweep.study.index import ENDED, RUNNING, WAITING
from trialfleet.sweep.study.requests import CANCEL, ENQUEUE, RETRY, STOP

LOOK = 0.1  # seconds between two looks for an answer
DONE, REFUSED, UNANSWERED = 0, 1, 3  # exit codes


@dataclass(frozen=True)
class Outcome:
    """What became of a request: an exit code, and what to say."""

    code: int
    said: str


def stop(study: Study, jobs: str, seconds: float) -> Outcome:
    """Ask the driver to start no more trials.

    Args:
        jobs: what becomes of those that run: finish, cancel or leave.
        seconds: to wait for its answer.

    Raises:
        UserError: the study has no driver.
    """
    if study.driver is None:
        raise UserError(
            f"study {study.name!r} has no driver that could be stopped: it is {study.state}",
            "to end jobs that run on without one, resume the study and cancel them there",
        )
    return _ask(study, seconds, STOP, jobs=jobs, driver=study.driver.token)


def cancel(study: Study, number: int, seconds: float) -> Outcome:
    """Ask for one trial's end.

    Raises:
        UserError: it is not under way.
    """
    row = study.trial(number)
    if row.state not in (RUNNING, WAITING):
        raise UserError(f"trial {number} of study {study.name!r} has ended: {row.state}", "there is nothing to cancel")
    return _ask(study, seconds, CANCEL, trial=number)


def retry(study: Study, number: int, seconds: float) -> Outcome:
    """Ask for a new trial with the parameters of one that has ended, besides those that the study is to have.

    Raises:
        UserError: there is no such trial, or it is under way.
    """
    row = study.trial(number)
    if row.state not in ENDED:
        raise UserError(
            f"trial {number} of study {study.name!r} is under way: {row.state}", "cancel it first, or let it end"
        )
    return _ask(study, seconds, RETRY, trial=number)


def enqueue(study: Study, words: Sequence[str], seconds: float) -> Outcome:
    """Ask for a trial with parameters of one's own, before the sampler's next proposal.

    Args:
        words: overrides, KEY=VALUE; what they leave out the sampler chooses.

    Raises:
        UserError: a word is none, or its key or value is not in the search space.
    """
    outcome = _ask(study, seconds, ENQUEUE, point=_point(study, words))
    if study.driver is None and study.total is not None and len(study.rows) >= study.total:
        return Outcome(outcome.code, f"{outcome.said}\n  with a greater hydra.sweeper.n_trials: all have begun")
    return outcome


def _point(study: Study, words: Sequence[str]) -> dict[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not words:
        raise UserError("enqueue: names no parameter", f"give KEY=VALUE, of {', '.join(study.space)}")
    known = dict.fromkeys([*study.space, *(name for row in study.rows for name in row.params)])  # a custom space's, too
    names = {name.lstrip("+"): name for name in known}
    point = {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            raise UserError(f"{word}: {error}", "give KEY=VALUE, quoted as a sweep's command has it") from None
        if override.is_sweep_override() or override.is_delete():
            raise UserError(f"{word}: is more than one value, or none", "give one value for each key")
        key = override.get_key_element().lstrip("+")
        if names and key not in names:
            raise UserError(
                f"{key}: study {study.name!r} does not search over it{nearest(key, names)}",
                f"it has {', '.join(names)}",
            )
        name = names.get(key, key)
        if name in point:
            raise UserError(f"{key}: is given twice", "give one value for each key")
        point[name] = override.value()
        _refuse_outside(study, name, word, point[name])
    return point


def _refuse_outside(study: Study, name: str, word: str, value: Any) -> None:
    """Raises:
    UserError: the study's space has the parameter, and not this value; of a custom space nobody can tell.
    """
    from optuna.distributions import json_to_distribution  # whoever asks for something else need not wait for it

    from trialfleet.sweep.study.search_space import contains, in_words, stored

    if name not in study.space:
        return
    distribution = json_to_distribution(study.space[name])
    if not contains(name, distribution, stored(value)):
        raise UserError(
            f"{word}: is no value that study {study.name!r} has for {name}", f"give one of {in_words(distribution)}"
        )


def _ask(study: Study, seconds: float, kind: str, **of_kind: Any) -> Outcome:
    try:
        request = requests.ask(study.folder, kind, study.record.uid, **of_kind)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}", "ask as somebody who may write there") from error
    if study.driver is None:
        resume = f": {study.command.resume}" if study.command is not None else ""
        return Outcome(DONE, f"study {study.name!r} has no driver; the next one is asked{resume}")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = requests.answer_to(study.folder, request.id)
        if answer is not None:
            return Outcome(DONE if answer.accepted else REFUSED, answer.said)
        if lease.present(study.folder / "driver.lock") is None:
            return Outcome(UNANSWERED, "the driver ended without an answer; the next one is asked")
        time.sleep(LOOK)
    return Outcome(UNANSWERED, f"no answer within {seconds:g} s; the driver does it when it comes to it")
