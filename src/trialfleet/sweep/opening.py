"""Opening a study: what an earlier command left half done is finished, and its storage compared with its folder."""

import contextlib
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from secrets import randbits

from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage

from trialfleet.errors import UserError
from trialfleet.sweep.fleets.code_version import code_version, differing
from trialfleet.sweep.fleets.launchers import factory_of
from trialfleet.sweep.plan import Plan
from trialfleet.sweep.study import consistency, constraints, fresh_start, rebuild, study_record
from trialfleet.sweep.study.consistency import Found
from trialfleet.sweep.study.databases import would_be_made
from trialfleet.sweep.study.lease import Lease
from trialfleet.sweep.study.projection import Projector
from trialfleet.sweep.study.rebuild import Rebuild
from trialfleet.sweep.study.storage import JOURNAL, StudyStorage, close, described, instantiated, open_storage
from trialfleet.sweep.study.study_record import StudyRecord
from trialfleet.trial import records

Notice = Callable[[str], None]


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
    if not (wanted or interrupted):
        return
    with contextlib.ExitStack() as stack:
        if plan.folder.exists():  # a study that has a driver is not put aside, and gets none meanwhile
            held = lease()
            held.acquire(notice)
            stack.callback(held.release)
        if not interrupted:
            fresh_start.begin(plan.folder, plan.name)
        aside = _put_aside(plan)
    if aside is not None and interrupted:
        notice(f"a fresh start that was interrupted is finished: what was there before is in {aside}")


def _put_aside(plan: Plan) -> str | None:
    node = plan.request.node.get("storage")
    if node is None:
        return fresh_start.finish(plan.folder, None)
    storage = open_storage(instantiated(node), plan.folder, lambda: None)
    try:
        return fresh_start.finish(plan.folder, storage)
    finally:
        close(storage)


def open_study(plan: Plan, lease: Lease, notice: Notice) -> Opened:
    """Open the study of the plan, or create it.

    Args:
        plan: checked again after the lease was taken: see `checked_again`.

    Raises:
        UserError: the storage is damaged, not the study's, or contradicts the folder.
        LeaseLost: another driver took the study over.
    """
    if plan.record is None and (archive := study_record.archive_of(plan.folder)).exists():
        notice(
            f"{archive} holds a study of this name, and this is a new one: "
            f"to go on with that one, stop, move this folder away and type: "
            f"{shlex.join(['tar', '-xzf', str(archive), '-C', str(archive.parent)])}"
        )
    record = _record(plan)
    projector = _projector(plan, record)
    again = rebuild.is_begun(plan.folder)
    if again:
        notice("the study was being made anew from its folder when the driver died: this is done again")
    anew = plan.request.study.rebuild or again
    if anew:
        store = _made_anew(plan, record, lease, projector, notice, record if plan.record is None else plan.record)
    else:
        store = _open_study(plan, lease, notice)
        consistency.refuse_empty(store, plan.folder, record.uids)
    store.belong(record.uid, plan.folder)
    found = consistency.compare(store, plan.folder, record.uids, plan.space.overrides, notice)
    if (found.missing or found.differing) and not consistency.put_right(store, found, projector, notice):
        store = _made_anew(plan, record, lease, projector, notice, record)
        found = consistency.compare(store, plan.folder, record.uids, plan.space.overrides, notice)
    study_record.write(plan.folder / "study.yaml", record)
    return Opened(record, store, found, anew)


def _record(plan: Plan) -> StudyRecord:
    folder, node, code = plan.folder, plan.request.node, code_version(plan.code)
    if plan.record is None:
        sampler = str(OmegaConf.select(OmegaConf.create(dict(node)), "sampler._target_"))
        storage = described(node.get("storage"))
        return study_record.create(plan.name, folder, randbits(32), sampler, storage, plan.identity, code)
    record = replace(study_record.at_home(plan.record, folder), storage=described(node.get("storage")))
    takes_copy = factory_of(plan.request.launcher).takes_copy
    copy = folder / "code" / str(record.code.get("digest"))
    where = differing(plan.code, copy) if copy.name != code["digest"] else ""
    return _with_code(record, code, where, "code" in plan.request.study.allow_changes, takes_copy)


def _with_code(
    record: StudyRecord, today: dict[str, str], where: str, take_todays: bool, takes_copy: bool
) -> StudyRecord:
    """Jobs run the study's own copy of the code; a clear word when today's differs.

    Args:
        where: the files that differ, in words; empty if it is not known.
        takes_copy: False where trials run in the driver's own process, or by its own code.
    """
    log = logging.getLogger(__name__)
    if record.format < records.FORMAT:
        log.warning(
            "this study was begun by an earlier version, whose jobs cannot read what this one writes: "
            "its trials go on with today's code (%s → %s)",
            record.code.get("digest"),
            today["digest"],
        )
        return replace(record, code=today, format=records.FORMAT)
    if take_todays:
        return replace(record, code=today)
    known = {**record.code, **{key: today[key] for key in ("script",) if key in today}}
    if record.code.get("digest") != today["digest"]:
        log.warning(
            f"the code has changed since this study began (%s → %s): %s{_GO_ON[takes_copy]}",
            record.code.get("digest"),
            today["digest"],
            where and f"{where}; ",
        )
    return replace(record, code=known)


_GO_ON = {
    True: "its trials go on with the study's own copy; 'hydra.sweeper.study.allow_changes=[code]' takes today's",
    False: "its trials go on with today's, since this launcher runs them by the command's own code; "
    "hydra/launcher=submitit_local runs the study's own copy",
}


def _projector(plan: Plan, record: StudyRecord) -> Projector:
    spaces: dict[str, BaseDistribution] = {
        key.removeprefix("space."): json_to_distribution(text)
        for key, text in record.identity.items()
        if key.startswith("space.")
    }
    return Projector(
        record.uid,
        {**spaces, **plan.space.distributions},
        plan.metrics[0] if plan.pruner is not None else None,
        plan.samplers.takes_constraints,
        constraints.parse(plan.settings.constraints),
    )


def _open_storage(plan: Plan, lease: Lease) -> BaseStorage:
    node = plan.request.node.get("storage")
    return open_storage(instantiated(node), plan.folder / JOURNAL, lease.check)


def _open_study(plan: Plan, lease: Lease, notice: Notice) -> StudyStorage:
    shown = described(plan.request.node.get("storage"))
    shown = str(plan.folder / JOURNAL) if shown == "null" else shown
    storage = _open_storage(plan, lease)
    return StudyStorage(storage, plan.name, plan.directions, lease.check, lease.token, shown, notice)


def _made_anew(
    plan: Plan, record: StudyRecord, lease: Lease, projector: Projector, notice: Notice, before: StudyRecord
) -> StudyStorage:
    """The study filled from its folder; the one that was there is kept under another name.

    Args:
        before: the record as it was, which names the storage where the study is.
    """
    store = Rebuild(
        folder=plan.folder,
        name=plan.name,
        uids=record.uids,
        recorded=before.storage,
        in_folder=plan.request.node.get("storage") is None,
        open_recorded=lambda address: _open_recorded(plan, replace(before, storage=address), lease),
        open_storage=lambda: _open_storage(plan, lease),
        open_study=lambda: _open_study(plan, lease, notice),
        lease_check=lease.check,
        projector=projector,
        notice=notice,
    ).run()
    plan.samplers.seeded(record.seed).skip_points(store.study)
    study_record.write(plan.folder / "study.yaml", record)
    rebuild.end(plan.folder)
    return store


def _open_recorded(plan: Plan, recorded: StudyRecord, lease: Lease) -> BaseStorage | None:
    """The storage that a record names, which may be another one than the command's; None if its file is gone.

    Raises:
        UserError: it cannot be opened.
    """
    address = recorded.storage
    by_itself = "***" not in address and not address.startswith("{")  # a node is built only if the user types it
    permitted = not by_itself and "hydra.sweeper.storage" in plan.request.study.allow_changes
    try:
        study_record.check_storage(recorded, described(plan.request.node.get("storage")), permitted)
    except UserError:
        if not by_itself:
            raise UserError(
                f"{address}: cannot be read, as study.yaml records neither passwords nor what to build",
                "make the study anew in that storage first",
            ) from None
        return None if would_be_made(address) else open_storage(address, plan.folder / JOURNAL, lease.check)
    return _open_storage(plan, lease)
