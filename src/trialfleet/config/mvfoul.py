"""Schema of the workload `mvfoul`: fouls in football, seen from several cameras."""

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le, Lt, MinLen
from pydantic import Field
from pydantic.dataclasses import dataclass

from trialfleet.config.mvfoul_models import Mvit, Network, Resnet3d
from trialfleet.config.schema import Config
from trialfleet.config.traced import STRICT, Gated, Host, Traced

Count = Annotated[int, Ge(0)]
Factor = Annotated[Host[float], Ge(1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Collisions:
    """Rendered collisions of two bodies; severity shows in the impact, action in the approach."""

    name: Literal["collisions"]
    split_seed: Annotated[int, Ge(0)]  # decides which clips are held out
    train_clips: Annotated[int, Ge(1)]  # in an epoch
    eval_clips: Annotated[int, Ge(1)]  # of each held-out split
    severity_counts: Annotated[tuple[Count, ...], MinLen(2)]  # of each class, in any unit: only their ratios count
    action_counts: Annotated[tuple[Count, ...], MinLen(2)]  # as severity_counts
    min_views: Annotated[int, Ge(1)]  # cameras of a clip, at least
    max_views: Annotated[int, Ge(1)]  # shorter clips are padded to it, and masked
    frames: Annotated[int, Ge(2)]  # of a clip
    size: Annotated[int, Ge(8)]  # pixels of a frame's side
    flip: Annotated[Host[float], Ge(0), Le(1)]  # chance of a mirrored training clip
    colour_jitter: Annotated[
        Host[float], Ge(0), Lt(1)
    ]  # largest relative change of brightness and contrast in training


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlainLoss:
    """Cross-entropy."""

    name: Literal["plain"]
    label_smoothing: Annotated[Traced[float], Ge(0), Lt(1)]  # share of the target that goes to all classes alike
    severity_weight: Annotated[Traced[float], Ge(0)]  # of the severity's loss in the sum
    action_weight: Annotated[Traced[float], Ge(0)]  # of the action's loss in the sum
    view_consistency: Annotated[Gated[float], Ge(0)]  # weight of the divergence between what single views say
    expert_load: Annotated[
        Gated[float], Ge(0)
    ]  # weight of how unevenly views are sent to experts, with model.aggregator=moe


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WeightedLoss(PlainLoss):
    """Cross-entropy with a weight for each class, divided by the sum of the weights."""

    name: Literal["weighted"]  # type: ignore[assignment]
    # none: all alike; effective_num: by effective numbers of samples; inverse_freq, balanced: by frequency
    class_weights: Literal["none", "effective_num", "inverse_freq", "balanced"]
    # of effective_num: (1 - beta) / (1 - beta^n) for a class of n clips
    effective_num_beta: Annotated[Host[float], Ge(0), Lt(1)]
    max_class_weight: Factor  # of effective_num, in least weights


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FocalLoss(WeightedLoss):
    """Cross-entropy in which what is known already counts less, by (1 - p)^gamma."""

    name: Literal["focal"]  # type: ignore[assignment]
    gamma: Annotated[Traced[float], Ge(0)]  # the larger, the less counts what is known already


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdaptiveFocalLoss(WeightedLoss):
    """A focal loss with a gamma of its own for each severity."""

    name: Literal["adaptive_focal"]  # type: ignore[assignment]
    gamma: Annotated[Traced[float], Ge(0)]  # of all actions
    severity_gammas: Traced[tuple[Annotated[float, Ge(0)], ...]]  # one for each severity


FoulLoss = Annotated[PlainLoss | WeightedLoss | FocalLoss | AdaptiveFocalLoss, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoBalance:
    """Every clip once an epoch."""

    name: Literal["none"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassBalanced:
    """Rare classes are drawn more often, with replacement; the most frequent one stays as it is."""

    name: Literal["class_balanced"]
    by: Literal["severity", "action", "alternating"]  # alternating: even epochs severity, odd ones action
    oversample_factor: Factor  # of a rare class, at most


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Progressive:
    """Class balance that grows over the first epochs."""

    name: Literal["progressive"]
    # severity; action; alternating: even epochs severity, odd ones action
    by: Literal["severity", "action", "alternating"]
    start_factor: Factor  # in the first epoch
    oversample_factor: Factor  # after `duration_epochs`
    duration_epochs: Annotated[Host[int], Ge(1)]  # over so many epochs it grows


ClassBalance = Annotated[NoBalance | ClassBalanced | Progressive, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MvfoulConfig(Config):
    """Config of multi-view foul recognition."""

    METRICS: ClassVar[frozenset[str]] = frozenset(
        {
            "val/sev_acc",
            "val/action_acc",
            "val/sev_balanced_acc",
            "val/action_balanced_acc",
            "val/balanced_acc",  # the mean of the two: the official score
            "val/sev_f1",
            "val/action_f1",
            "val/sev_entropy",  # of the classes that are predicted, as a share of the largest there is
            "val/action_entropy",
            "val/loss",
            "train/sev_loss",
            "train/action_loss",
        }
    )

    model: Network
    dataset: Collisions
    loss: FoulLoss
    class_balance: ClassBalance

    def metrics(self) -> frozenset[str]:
        return self.METRICS | ({"train/expert_load"} if self.model.aggregator == "moe" else frozenset())

    def published(self) -> dict[str, str | None]:
        return {"model.weights": self.model.weights} if isinstance(self.model, Resnet3d | Mvit) else {}

    def problems(self) -> list[str]:
        return [*super().problems(), *self._data_problems(), *self._model_problems()]

    def _data_problems(self) -> list[str]:
        data, problems = self.dataset, []
        if data.min_views > data.max_views:
            problems.append(f"dataset.min_views: {data.min_views} is more than dataset.max_views={data.max_views}")
        for name, counts, largest in (
            ("severity_counts", data.severity_counts, len(SEVERITIES)),
            ("action_counts", data.action_counts, len(ACTIONS)),
        ):
            if len(counts) > largest or not any(counts):
                problems.append(f"dataset.{name}: up to {largest} counts, not all of them 0, got {list(counts)}")
        return problems

    def _model_problems(self) -> list[str]:
        loss, problems = self.loss, self.model.problems(self.dataset.frames, self.dataset.size)
        classes = len(self.dataset.severity_counts)
        if isinstance(loss, AdaptiveFocalLoss) and len(loss.severity_gammas) != classes:
            problems.append(f"loss.severity_gammas: {len(loss.severity_gammas)} given for {classes} severities")
        return problems


# What the generator can render; a dataset with fewer classes has the first of them.
SEVERITIES = ("none", "slight", "careless", "reckless", "violent", "brutal")
ACTIONS = (
    "run-behind",
    "run-side",
    "run-front",
    "slide-behind",
    "slide-side",
    "slide-front",
    "jump-behind",
    "jump-side",
    "jump-front",
    "hold",
)
