"""Schemas of the workloads `grpo` (reinforcement fine-tuning of a language model) and `grpo_base` (its base)."""

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass

from trialfleet.config.decoder import Decoder, Generation, Temperature, TopK, TopP
from trialfleet.config.schema import Config
from trialfleet.config.traced import STRICT, Gated, Traced

# What is logged of each of these, in this order: its mean, least and largest value over a batch.
REWARDS = ("format_exact", "format_approximate", "answer", "number")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sums:
    """Generated sums of whole numbers."""

    name: Literal["sums"]
    split_seed: Annotated[int, Ge(0)]  # decides which sums are held out
    instruction: str  # stands before each problem
    max_number: Annotated[int, Ge(1)]  # the largest term
    terms: Annotated[int, Ge(2)]  # of a sum
    held_out: Annotated[float, Ge(0), Le(0.4)]  # share of all sums that only val has, and test; 0: all have all
    train_problems: Annotated[int, Ge(1)]  # an epoch
    eval_problems: Annotated[int, Ge(1)]  # of an evaluation


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """How completions are drawn in an evaluation."""

    temperature: Temperature  # logits are divided by it
    top_p: TopP  # only the likeliest tokens of together this probability are drawn
    top_k: TopK  # only so many of the likeliest tokens are drawn; null: all
    num_passes: Annotated[int, Ge(1)]  # completions of a problem, of which the best one counts


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Grpo:
    """Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300)."""

    num_generations: int  # completions of a prompt, judged against each other
    num_iterations: Annotated[int, Ge(1)]  # updates on them
    beta: Annotated[Gated[float], Ge(0)]  # weight of the divergence from the base model
    epsilon: Annotated[Traced[float], Gt(0)]  # how far from 1 a ratio of probabilities is followed
    # estimate of the divergence: kl: d; mse_kl: d^2 / 2; low_var_kl: e^d - d - 1
    kl: Literal["kl", "mse_kl", "low_var_kl"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stages:
    """What a base model learns first."""

    next_token_epochs: Annotated[int, Ge(0)]  # plain sums, every token
    supervised_epochs: Annotated[int, Ge(0)]  # whole answers with their tags, the answer's tokens


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LanguageConfig(Config):
    """What both workloads have."""

    METRICS: ClassVar[frozenset[str]] = frozenset(
        {"val/accuracy", "val/partial_accuracy", "val/format_accuracy", "val/reward", "val/completion_length"}
    )

    model: Decoder
    dataset: Sums
    generation: Generation
    evaluation: Evaluation

    def problems(self) -> list[str]:
        return [*super().problems(), *self.model.problems()]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GrpoBaseConfig(LanguageConfig):
    """Config of the base stage."""

    stages: Stages

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.model.lora_rank is not None:
            problems.append("model.lora_rank: a base model has no adapters; set it to null")
        if not self.stages.next_token_epochs + self.stages.supervised_epochs:
            problems.append("stages: next_token_epochs and supervised_epochs are both 0; set one")
        return problems


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GrpoConfig(LanguageConfig):
    """Config of reinforcement fine-tuning."""

    METRICS: ClassVar[frozenset[str]] = (
        LanguageConfig.METRICS
        | {
            f"train/{name}_{kind}"
            for name in ("reward", *(f"reward_{n}" for n in REWARDS))
            for kind in ("mean", "min", "max")
        }
        | {f"train/{name}" for name in ("kl", "clip_fraction", "entropy", "advantage", "completion_length")}
    )

    grpo: Grpo

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.grpo.num_generations < 2:
            problems.append(
                f"grpo.num_generations: must be at least 2, got {self.grpo.num_generations}; a completion is judged "
                "against the others of its prompt"
            )
        if self.model.lora_rank is None:
            problems.append("model.lora_rank: null, but the frozen base is what the policy is held to; set a rank")
        if self.training.init_from is None and self.model.weights is None and not self.dry_run:  # shapes need neither
            problems.append(
                "training.init_from: null, but there must be a base model; train one with "
                "workload=grpo_base and give a folder of its checkpoints/, or give published weights by model.weights"
            )
        return problems
