"""Schemas of the groups `optimizer` and `scheduler`: one dataclass for each kind, told apart by `name`."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field
from pydantic.dataclasses import dataclass

from trialfleet.config.traced import STRICT, Host, Traced

Rate = Annotated[Traced[float], Ge(0)]
Beta = Annotated[Traced[float], Ge(0), Lt(1)]
Epsilon = Annotated[Traced[float], Gt(0)]
Share = Annotated[Traced[float], Ge(0), Le(1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GroupRates:
    """What one parameter group does differently; null takes the optimizer's own value."""

    learning_rate: Rate | None  # null: the optimizer's
    weight_decay: Rate | None  # null: the optimizer's


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Optimizer:
    learning_rate: Rate  # at the schedule's peak
    weight_decay: Rate  # of matrices; vectors are not decayed
    groups: dict[str, GroupRates]  # by the workload's own group names


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdamW(_Optimizer):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"]
    beta1: Beta  # decay of the first moment
    beta2: Beta  # decay of the second moment
    eps: Epsilon  # added to the second moment's root
    moment_dtype: Literal["float32", "bfloat16"]  # of the first moment


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Adam(_Optimizer):
    """Adam; weight decay is added to the gradient, as an L2 penalty would."""

    name: Literal["adam"]
    beta1: Beta  # decay of the first moment
    beta2: Beta  # decay of the second moment
    eps: Epsilon  # added to the second moment's root
    moment_dtype: Literal["float32", "bfloat16"]  # of the first moment


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sgd(_Optimizer):
    """Gradient descent with momentum; weight decay is added to the gradient."""

    name: Literal["sgd"]
    momentum: Beta  # decay of the velocity
    nesterov: bool  # looks ahead by the velocity


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lion(_Optimizer):
    """Sign of an interpolated momentum, with decoupled weight decay."""

    name: Literal["lion"]
    beta1: Beta  # of the momentum in the update
    beta2: Beta  # decay of the momentum
    moment_dtype: Literal["float32", "bfloat16"]  # of the momentum


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Muon(_Optimizer):
    """Orthogonalised momentum for matrices, AdamW for everything else; decoupled weight decay."""

    name: Literal["muon"]
    momentum: Beta  # decay of the velocity
    nesterov: bool  # looks ahead by the velocity
    iterations: Annotated[int, Ge(1)]  # of Newton-Schulz
    beta1: Beta  # AdamW's, for what is no matrix
    beta2: Beta  # AdamW's, for what is no matrix
    eps: Epsilon  # AdamW's, for what is no matrix


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Adafactor(_Optimizer):
    """Second moments kept as row and column sums; decoupled weight decay."""

    name: Literal["adafactor"]
    decay_exponent: Share  # the second moment's decay at step t is 1 - t^-decay_exponent
    eps: Epsilon  # added to squared gradients
    factor_from: Annotated[int, Ge(1)]  # smaller axes keep a full second moment


OptimizerConfig = Annotated[AdamW | Adam | Sgd | Lion | Muon | Adafactor, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _WithWarmup:
    warmup_ratio: Share  # share of all steps in which the rate rises
    warmup_steps: Annotated[Traced[int], Ge(0)] | None  # the number of these steps itself; null: by warmup_ratio


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Constant(_WithWarmup):
    """The full rate at every step."""

    name: Literal["constant"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cosine:
    """Half a cosine from the full rate down to `end_factor` of it."""

    name: Literal["cosine"]
    end_factor: Share  # of the full rate, at the last step


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WarmupCosine(_WithWarmup):
    """A linear rise over `warmup_ratio` of all steps, then half a cosine down to `end_factor`."""

    name: Literal["warmup_cosine"]
    end_factor: Share  # of the full rate, at the last step


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Step(_WithWarmup):
    """The rate is multiplied by `gamma` at each milestone."""

    name: Literal["step"]
    milestones: tuple[Share, ...]  # as shares of all steps
    gamma: Rate  # what the rate is multiplied by


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Plateau(_WithWarmup):
    """The rate is multiplied by `factor` when the objective has not improved for `patience` evaluations."""

    name: Literal["plateau"]
    factor: Annotated[Host[float], Gt(0), Lt(1)]  # what the rate is multiplied by
    patience: Annotated[Host[int], Ge(0)]  # evaluations without an improvement
    threshold: Annotated[Host[float], Ge(0)]  # an improvement must be at least this large
    cooldown: Annotated[Host[int], Ge(0)]  # evaluations after a reduction that are not counted
    min_factor: Annotated[Host[float], Ge(0), Le(1)]  # the least share of the full rate


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OneCycle(_WithWarmup):
    """A cosine rise from `start_factor` over `warmup_ratio` of all steps, then a cosine down to `end_factor`."""

    name: Literal["onecycle"]
    start_factor: Share  # of the full rate, at the first step
    end_factor: Share  # of the full rate, at the last step


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Restarts(_WithWarmup):
    """`cycles` half cosines of equal length, each starting at the full rate."""

    name: Literal["restarts"]
    cycles: Annotated[Traced[int], Ge(1)]  # half cosines of equal length
    end_factor: Share  # of the full rate, at the end of each


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Polynomial(_WithWarmup):
    """(1 - progress)^power from the full rate to `end_factor`; power 1 is a straight line."""

    name: Literal["polynomial"]
    power: Annotated[Traced[float], Gt(0)]  # 1: a straight line
    end_factor: Share  # of the full rate, at the last step


Scheduler = Annotated[
    Constant | Cosine | WarmupCosine | Step | Plateau | OneCycle | Restarts | Polynomial,
    Field(discriminator="name"),
]
