"""Opening a study: what an earlier command left half done is finished, and its storage compared with its folder."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from secrets import randbits

from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from trialfleet.errors import UserError
from trialfleet.sweep.fleets.code_version import code_version
from trialfleet.sweep.plan import Plan, allowed_changes, rebuild
from trialfleet.sweep.study import consistency, fresh_start, study_record
from trialfleet.sweep.study import constraints as bounds
from trialfleet.sweep.study import storage as stores
from trialfleet.sweep.study.consistency import Found
from trialfleet.sweep.study.lease import Lease
from trialfleet.sweep.study.projection import Projector
from trialfleet.sweep.study.samplers import SamplerFactory, build_pruner
from trialfleet.sweep.study.storage import OWNER, StudyStorage
from trialfleet.sweep.study.study_record import StudyRecord
from trialfleet.trial import records

Notice = Callable[[str], None]
JOURNAL = "optuna_journal.log"


@dataclass(frozen=True)
class Opened:
    """A study that this driver may write: its record, its storage, and what was found when it was compared.

    Attributes:
        anew: whether the study was made anew from its folder.
    """

    record: StudyRecord
    store: StudyStorage
    found: Found
    anew: bool


def finish_fresh_start(plan: Plan, lease: Callable[[], Lease], wanted: bool, notice: Notice) -> None:
    """Put the study aside if the command wants a fresh one, or an earlier command died while it did.

    Raises:
        UserError: the study has a driver, or the one in the storage belongs to another folder.
    """
    interrupted = fresh_start.is_begun(plan.folder)
    if wanted and not interrupted:
        fresh_start.begin(plan.folder, plan.name, lease)
    if not fresh_start.is_begun(plan.folder):
        return
    node = plan.request.node.get("storage")
    storage = None if node is None else stores.open_storage(stores.instantiated(node), plan.folder, lambda: None)
    try:
        aside = fresh_start.finish(plan.folder, storage)
    finally:
        if storage is not None:
            stores.close(storage)
    if aside is not None and interrupted:
        notice(f"a fresh start that was interrupted is finished: what was there before is in {aside}")


def open_study(plan: Plan, lease: Lease, notice: Notice) -> Opened:
    """Open the study of the plan, or create it.

    Raises:
        UserError: the storage is damaged, not the study's, or contradicts the folder.
        LeaseLost: another driver took the study over.
    """
    record = _record(plan)
    projector = _projector(plan, record)
    store, old = _store(plan, record, lease, notice)
    again = bool(store.study.user_attrs.get(consistency.REBUILDING))
    anew = rebuild(plan.request.config) or again
    if again:
        notice("the study was being made anew from its folder when the driver died: this is done again")
        old = []
    elif not anew:
        consistency.refuse_empty(store, plan.folder, record.uids)
    if anew:
        store = _made_anew(plan, record, lease, store, old, projector, notice)
    store.belong(record.uid, plan.folder)
    found = consistency.compare(store, plan.folder, record.uids, plan.space.overrides, notice)
    if (found.missing or found.differing) and not consistency.put_right(store, found, projector, notice):
        store = _made_anew(plan, record, lease, store, store.trials(), projector, notice)
        store.belong(record.uid, plan.folder)
        found = consistency.compare(store, plan.folder, record.uids, plan.space.overrides, notice)
    study_record.write(plan.folder / "study.yaml", record)
    return Opened(record, store, found, anew)


def _record(plan: Plan) -> StudyRecord:
    folder, node, code = plan.folder, plan.request.node, code_version()
    if plan.record is None:
        sampler = str(OmegaConf.select(OmegaConf.create(dict(node)), "sampler._target_"))
        storage = stores.described(node.get("storage"))
        return study_record.create(plan.name, folder, randbits(32), sampler, storage, plan.identity, code)
    record = study_record.at_home(plan.record, folder)
    return _with_code(record, code, "code" in allowed_changes(plan.request.config))


def _with_code(record: StudyRecord, today: dict[str, str], take_todays: bool) -> StudyRecord:
    """Jobs run the study's own copy of the code; a clear word when today's differs."""
    log = logging.getLogger(__name__)
    if record.format < records.FORMAT:
        log.warning(
            "this study was begun by an earlier version, whose jobs cannot read what this one writes: "
            "its trials go on with today's code (%s → %s)",
            record.code.get("digest"),
            today["digest"],
        )
        return replace(record, code=today, format=records.FORMAT)
    if record.code.get("digest") == today["digest"]:
        return record
    if take_todays:
        return replace(record, code=today)
    log.warning(
        "the code has changed since this study began (%s → %s): its trials go on with the study's own copy; "
        "'study.allow_changes=[code]' takes today's",
        record.code.get("digest"),
        today["digest"],
    )
    return record


def _projector(plan: Plan, record: StudyRecord) -> Projector:
    node = plan.request.node
    spaces: dict[str, BaseDistribution] = {
        key.removeprefix("space."): json_to_distribution(text)
        for key, text in record.identity.items()
        if key.startswith("space.")
    }
    pruned = build_pruner(node.get("pruner")) is not None and len(plan.metrics) == 1
    return Projector(
        record.uid,
        {**spaces, **plan.space.distributions},
        plan.metrics[0] if pruned else None,
        SamplerFactory(node["sampler"], plan.space, record.seed).takes_constraints,
        bounds.parse(plan.settings.constraints),
    )


def _opened(plan: Plan, lease: Lease) -> BaseStorage:
    node = plan.request.node.get("storage")
    return stores.open_storage(stores.instantiated(node), plan.folder / JOURNAL, lease.check)


def _new_store(plan: Plan, lease: Lease, storage: BaseStorage) -> StudyStorage:
    shown = stores.described(plan.request.node.get("storage"))
    shown = str(plan.folder / JOURNAL) if shown == "null" else shown
    return StudyStorage(storage, plan.name, plan.directions, lease.check, lease.token, shown)


def _store(plan: Plan, record: StudyRecord, lease: Lease, notice: Notice) -> tuple[StudyStorage, Sequence[FrozenTrial]]:
    """The study as its storage has it, and its trials.

    A journal in the folder that cannot be read gives way to a new one, if that is what the user asked for.
    """
    try:
        store = _new_store(plan, lease, _opened(plan, lease))
    except UserError as damage:
        journal = plan.folder / JOURNAL
        in_folder = plan.request.node.get("storage") is None
        if not (in_folder and journal.exists() and rebuild(plan.request.config)):
            raise
        aside = records.set_aside(journal)
        notice(f"{damage.message}: renamed to {aside.name}")
        store = _new_store(plan, lease, _opened(plan, lease))
    return store, store.trials()


def _made_anew(
    plan: Plan,
    record: StudyRecord,
    lease: Lease,
    store: StudyStorage,
    old: Sequence[FrozenTrial],
    projector: Projector,
    notice: Notice,
) -> StudyStorage:
    """A study filled from the folder; the one that was there is kept under another name."""
    if store.in_folder:
        _put_journal_aside(plan.folder / JOURNAL, notice)
    elif store.trials() or store.study.user_attrs.get(OWNER):
        store.belong(record.uid, plan.folder)  # so that no other driver writes it any more
        other = _opened(plan, lease)
        aside = consistency.begin_anew(other, plan.name)
        stores.close(other)
        stores.close(store.storage)
        notice(f"{store.shown}: the study that was there is kept as {aside!r}")
    fresh_store = _new_store(plan, lease, _opened(plan, lease))
    fresh_store.belong(record.uid, plan.folder)
    consistency.rebuild(fresh_store, old, plan.folder, record.uids, projector, notice)
    return fresh_store


def _put_journal_aside(journal: Path, notice: Notice) -> None:
    if journal.exists():
        aside = journal.with_name(f"{journal.name}.before-{datetime.now():%Y%m%d-%H%M%S-%f}")
        journal.rename(aside)
        notice(f"{journal}: what was there is kept as {aside.name}")
