"""From a new trial in the study to the overrides of its job: ask, suggest, and write trial.json."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from trialfleet.compat.optuna import FIXED_PARAMS
from trialfleet.errors import ShownError, UserError
from trialfleet.sweep.study.ahead import Ahead, Rule
from trialfleet.sweep.study.databases import storage_failure
from trialfleet.sweep.study.samplers import SamplerFactory
from trialfleet.sweep.study.search_space import Space, contains, stored
from trialfleet.sweep.study.storage import REQUEST, RETRY_OF, StudyStorage, distribution_texts, marks_of
from trialfleet.trial import secrets
from trialfleet.trial.directory import trial_dir
from trialfleet.trial.submission import TrialRecord

CustomSpace = Callable[[DictConfig, Trial], None]


@dataclass(frozen=True)
class AskedPoint:
    """Parameters that a person asked to try.

    Attributes:
        request: the request's id, which the trial bears.
        retry_of: number of the trial that they are of.
    """

    request: str
    params: Mapping[str, Any]
    retry_of: int | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        """User attributes of the trial."""
        return {REQUEST: self.request} | ({} if self.retry_of is None else {RETRY_OF: self.retry_of})


class Proposer:
    """Proposes trials.

    Args:
        enqueued: parameter sets to try first, in this order; what a trial of the study has tried is not tried again.
        folder: the study's, where trials have theirs.
        custom_space: dotted path of a function (config, trial) that suggests further parameters, or None.
        config: the sweep's config, which the custom space gets.
        rule: when the sampler is asked ahead; never if None.
    """

    def __init__(
        self,
        store: StudyStorage,
        uid: str,
        space: Space,
        samplers: SamplerFactory,
        enqueued: Sequence[Mapping[str, Any]],
        folder: Path,
        custom_space: str | None,
        config: DictConfig,
        rule: Rule | None = None,
    ) -> None:
        self._store = store
        self._uid = uid
        self._space = space
        self._folder = folder
        self._samplers = samplers
        store.study.sampler = samplers(0)  # samplers want to hear of trials that end before the first is asked for
        self._enqueued = [known_point(point, space, custom_space) for point in enqueued]
        self._custom_path = custom_space
        self._asked: list[AskedPoint] = []
        self._untried: list[dict[str, Any]] | None = None  # of these; None until the study is asked
        self._custom = imported(custom_space)
        self._config = config
        self._ahead = Ahead(rule or Rule(), store, uid, samplers, self._suggest)

    def known(self, params: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Parameters that a person asks to try, by the space's own names.

        Args:
            key: begins the message if they are wrong.

        Raises:
            UserError: the space does not contain them.
        """
        try:
            return known_point(params, self._space, self._custom_path)
        except UserError as refusal:
            said = refusal.message.removeprefix("hydra.sweeper.enqueue: ")
            raise UserError(f"{key}: {said}", refusal.fix) from None

    def ask(self, point: AskedPoint) -> None:
        """Try these parameters before anything else, unless a trial bears the request already."""
        if not self._was_made(point):
            self._asked.append(point)

    def _was_made(self, point: AskedPoint) -> bool:
        return any(trial.user_attrs.get(REQUEST) == point.request for trial in self._store.trials())

    def _next_asked(self) -> AskedPoint | None:
        """The next that no trial was made for: a creation that failed may be there nevertheless."""
        while self._asked and self._was_made(self._asked[0]):
            del self._asked[0]
        return self._asked[0] if self._asked else None

    def propose(self) -> tuple[int, TrialRecord]:
        """A new trial.

        Returns:
            its storage id and what its trial.json is to say.
        """
        number = self._store.next_number()
        self._refuse_taken(number)
        if (asked := self._next_asked()) is not None:
            trial_id = self._store.create(self._uid, asked.params, asked.attributes)
            return trial_id, self.complete(trial_id)
        if self._untried is None:
            self._untried = untried(self._enqueued, self._store.trials())
        if not self._untried and (ready := self._ahead.take(number)) is not None:
            trial_id = self._store.create_ready(ready)
            self._store.study.sampler = ready.sampler
            return trial_id, self._record(trial_id)
        left, self._untried = self._untried, None  # a creation that fails may be there nevertheless: ask again then
        trial_id = self._store.create(self._uid, left[0] if left else None)
        given = left and self._store.frozen(trial_id).system_attrs.get(FIXED_PARAMS) == left[0]
        self._untried = left[1:] if given else left  # a trial that somebody enqueued with plain Optuna comes first
        return trial_id, self.complete(trial_id)

    def make_ready(self, count: int) -> None:
        """Ask the sampler ahead for as many trials as the rule says, `count` at most: no slot is free just now.

        Points that people name come first, and need no sampler: none is asked while there are any.
        """
        if not self._asked and self._untried == []:
            self._ahead.make(count)

    def _refuse_taken(self, number: int) -> None:
        """A number whose folder holds a trial already is never asked for: its result is not the new trial's.

        Raises:
            UserError: the study's storage is behind the folder.
        """
        directory = trial_dir(self._folder, number)
        if directory.is_taken():
            raise UserError(
                f"{directory.path}: holds a trial, and {self._store.shown} would ask for trial {number} anew",
                "give the storage that the study had (hydra.sweeper.storage), or make the study anew from its folder "
                "with hydra.sweeper.study.rebuild=true",
            )

    def complete(self, trial_id: int) -> TrialRecord:
        """Suggest what the trial has no value for yet. Safe to repeat: values that are stored stay.

        This is also how a trial goes on whose driver died between asking and writing.
        """
        number = self._store.frozen(trial_id).number
        self._store.study.sampler = self._samplers(number)
        self._suggest(self._store.trial(trial_id))
        return self._record(trial_id)

    def _suggest(self, trial: Trial) -> None:
        for name, distribution in self._space.distributions.items():
            suggest(trial, name, distribution)
        self._suggest_more(trial)

    def _record(self, trial_id: int) -> TrialRecord:
        """What trial.json says of a trial that has its parameters."""
        frozen = self._store.frozen(trial_id)
        params = dict(frozen.params)
        clash = params.keys() & self._space.fixed.keys()
        if clash:
            raise UserError(
                f"{', '.join(sorted(clash))}: given a fixed value and searched over, too",
                "remove it from the command line or from the search space",
            )
        keys = secrets.addresses(self._config)
        overrides = [secrets.masked_override(text, keys) for text in self._space.overrides(params)]
        texts = distribution_texts(frozen.distributions)
        return TrialRecord(frozen.number, overrides, params, texts, self._uid, **marks_of(frozen))

    def _suggest_more(self, trial: Trial) -> None:
        """Let the user's own function suggest parameters.

        Raises:
            UserError: it failed; an error of the storage under it is raised as it is.
        """
        if self._custom is None:
            return
        try:
            self._custom(self._config, trial)
        except (ShownError, OSError):
            raise
        except Exception as error:
            if storage_failure(error) is not None:
                raise
            raise UserError(
                f"hydra.sweeper.custom_search_space: raised {type(error).__name__}: {error}",
                "correct that function; the same command goes on",
            ) from error


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """The value of a parameter of the space: the trial's own if it has one, else the sampler's proposal."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_int(name, low, high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)  # the space has no others
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def imported(path: str | None) -> CustomSpace | None:
    """The custom search space that `hydra.sweeper.custom_search_space` names.

    Raises:
        UserError: it cannot be imported.
    """
    if path is None:
        return None
    try:
        extend: CustomSpace = instantiate({"_target_": path, "_partial_": True}, _execution_whitelist_=(path,))
    except HydraException as error:
        raise UserError(
            f"hydra.sweeper.custom_search_space={path}: {error.__cause__ or error}",
            "give the dotted path of a function (config, trial) that can be imported",
        ) from None
    return extend


def known_point(point: Mapping[str, Any], space: Space, custom: str | None) -> dict[str, Any]:
    """An enqueued point, which the space must contain (as far as it is known: a custom space may add to it).

    Returns:
        the point by the space's own names: a key that is `+key` there may be named without its plus.

    Raises:
        UserError: a key or value of it is outside of the space.
    """
    names = {name.lstrip("+"): name for name in space.distributions}
    found = {}
    for key, given in point.items():
        name, value = names.get(key.lstrip("+"), key), stored(given)
        if (distribution := space.distributions.get(name)) is not None:
            if not contains(name, distribution, value):
                written = secrets.masked(space.written[name])
                raise UserError(f"hydra.sweeper.enqueue: {key}={given!r} is outside of {written}", "correct it")
        elif custom is None:
            close = difflib.get_close_matches(key, names, 1)
            hint = f", did you mean {close[0]}?" if close else f", which has {', '.join(names) or 'no key'}"
            raise UserError(f"hydra.sweeper.enqueue: {key} is not in the search space{hint}", "correct the key")
        found[name] = value
    return found


def untried(points: Sequence[dict[str, Any]], trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """The points that no trial was given, nor has by itself; one that is there twice is tried twice."""
    had = [(trial.system_attrs.get(FIXED_PARAMS), trial.params) for trial in trials] if points else []
    left = []
    for point in points:
        found = next((one for one in had if one[0] == point or point.items() <= one[1].items()), None)
        if found is None:
            left.append(point)
        else:
            had.remove(found)
    return left


def probes(space: Space) -> list[list[str]]:
    """Overrides of a few points of the space that name each choice once, to see whether configs can be composed."""
    first = {name: _values(distribution)[0] for name, distribution in space.distributions.items()}
    points = [first]
    for name, distribution in space.distributions.items():
        points += [{**first, name: value} for value in _values(distribution)[1:]]
    return [space.overrides(point) for point in points]


def _values(distribution: BaseDistribution) -> list[Any]:
    """All choices of a categorical, the lower end of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low]
