"""Proposals that stand ready before a slot is free, so that no slot waits for the sampler.

A trial that is in the study cannot be taken back, and a proposal may have to be: results come meanwhile. So the sampler
is asked beside the study (`study_ahead`), and what it noted is kept with the proposal. All of it comes into the study
when a slot is free, the trial whole in one record. Until then nothing is promised: a driver that dies leaves nothing of
it, and the next one asks again.
"""

from collections.abc import Callable
from dataclasses import dataclass

from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import Trial

from trialfleet.sweep.study.databases import storage_failure, storage_is_transient
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.sweep.study.samplers import SamplerFactory
from trialfleet.sweep.study.storage import OWNER, StudyStorage
from trialfleet.sweep.study.study_ahead import Ready, StudyAhead, not_yet

# Whose proposals do not depend on results: none is ever out of date.
UNTAUGHT = (RandomSampler, QMCSampler, GridSampler)
# These read the study, note things in it, and touch nothing else. What a class of somebody else's does, nobody knows.
KNOWN = (*UNTAUGHT, TPESampler, CmaEsSampler, NSGAIISampler, NSGAIIISampler, GPSampler, BruteForceSampler)


@dataclass(frozen=True)
class Rule:
    """When the sampler is asked ahead, and what is out of date.

    Attributes:
        proposals: that stand ready; 0 for none.
        unseen: results that one of a sampler that learns from them may not know of.
    """

    proposals: int = 0
    unseen: int = 0

    def asks(self, sampler: BaseSampler) -> bool:
        """Whether this sampler is. One that may miss no result is not: it is a result that frees a slot."""
        return self.proposals > 0 and type(sampler) in KNOWN and (type(sampler) in UNTAUGHT or self.unseen > 0)

    def keeps(self, ready: Ready, results: int) -> bool:
        """Whether a slot that is free gets this proposal, after so many results in all."""
        return type(ready.sampler) in UNTAUGHT or results - ready.results <= self.unseen

    def replaces(self, ready: Ready, results: int) -> bool:
        """Whether another is made in its place if there is time before a slot is free."""
        return type(ready.sampler) not in UNTAUGHT and results > ready.results


class Ahead:
    """The proposals that stand ready, in the order in which they become trials.

    Args:
        uid: the study's, which each trial bears.
        samplers: makes the sampler of each trial.
        suggest: suggests a trial's parameters.
    """

    def __init__(
        self,
        rule: Rule,
        store: StudyStorage,
        uid: str,
        samplers: SamplerFactory,
        suggest: Callable[[Trial], None],
    ) -> None:
        self._store, self._uid, self._samplers, self._suggest = store, uid, samplers, suggest
        self._ready: list[Ready] = []
        self._study: StudyAhead | None = None
        self._rule = rule if not samplers.shared and rule.asks(samplers(0)) else Rule()

    def make(self, count: int) -> None:
        """Have as many ready as the rule says, `count` at most, and replace those that have missed a result."""
        count = min(count, self._rule.proposals)
        results = self._store.results
        if any(self._rule.replaces(ready, results) for ready in self._ready):
            self.forget()
        if len(self._ready) >= count:
            return
        first = self._store.count()
        if self._ready and self._ready[0].trial.number != first:
            self.forget()
        try:
            for number in range(first + len(self._ready), first + count):
                self._ready.append(self._made(number, results))
        except (OSError, LeaseLost):
            raise
        except Exception as error:
            if storage_failure(error) is not None or storage_is_transient(error):
                raise
            self._rule = Rule()  # whatever is wrong is met, and told, when a slot is free
            self.forget()

    def _made(self, number: int, results: int) -> Ready:
        if self._study is None:
            self._study = StudyAhead(self._store.study)
        ready = Ready(not_yet(number, {OWNER: self._uid}), self._samplers(number), results)
        self._suggest(self._study.add(ready, self._ready))
        return ready

    def take(self, number: int) -> Ready | None:
        """The proposal for the trial of this number; None if there is none that the rule keeps."""
        ready = self._ready.pop(0) if self._ready else None
        if ready is not None and ready.trial.number == number and self._rule.keeps(ready, self._store.results):
            return ready
        self.forget()
        return None

    def forget(self) -> None:
        """Another trial comes first: what is ready was made for numbers that others get."""
        self._ready.clear()
