"""The config of a command as the study's own copy of the code has it: jobs compose theirs from there."""

from pathlib import Path

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trialfleet.errors import UserError
from trialfleet.sweep.fleets import code_snapshot
from trialfleet.sweep.fleets.code_version import code_version
from trialfleet.sweep.fleets.launchers import factory_of
from trialfleet.sweep.plan import Plan, identity_of
from trialfleet.sweep.study import study_record
from trialfleet.trial import records, secrets


def kept_config(plan: Plan) -> DictConfig:
    """What the command is composed to by the config files that jobs have.

    Hydra lets no job have another launcher or sweeper than the command whose job it is; so where today's files are
    others, jobs must not get the command's own config.

    Raises:
        UserError: the study's copy says something else of what trials compute than today's files, which a permitted
            change (`study.allow_changes`) would make part of the study.
    """
    today = plan.request.config
    copy = _copy_that_differs(plan)
    if copy is None:
        return today
    loader = code_snapshot.repointed(plan.request.hydra_context, plan.code, copy).config_loader
    typed = [*secrets.overrides(today, "hydra"), *secrets.overrides(today, "task")]
    try:
        config = loader.load_configuration(today.hydra.job.config_name, typed, RunMode.MULTIRUN)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(
            f"study {plan.name!r} composes its trials from its own copy of the configs, which does not take this "
            f"command: {str(error).splitlines()[0]}",
            _FIX,
        ) from error
    OmegaConf.copy_cache(from_config=today, to_config=config)  # the time of day, say
    sides = (identity_of(plan.request, config, plan.space), identity_of(plan.request, today, plan.space))
    if changed := study_record.differences(*sides):
        lines = [f"    {key}: {' → '.join(study_record.shown_of(side, key) for side in sides)}" for key in changed]
        raise UserError(
            f"study {plan.name!r} composes its trials from its own copy of the configs, which has other values than "
            "today's files:\n" + "\n".join(lines),
            _FIX,
        )
    return config


_FIX = (
    "give what is to change on the command line, or add code to hydra.sweeper.study.allow_changes: that takes today's "
    "code and configs"
)


def _copy_that_differs(plan: Plan) -> Path | None:
    """The study's copy of the code, if its jobs run that and today's is another one."""
    record = plan.record
    if record is None or record.format < records.FORMAT or "code" in plan.request.study.allow_changes:
        return None
    digest = str(record.code.get("digest"))
    copy = plan.folder / "code" / digest
    copied = factory_of(plan.request.launcher).takes_copy and copy.is_dir()
    return copy if copied and code_version(plan.code)["digest"] != digest else None
