"""Reinforcement fine-tuning of a language model on problems with an answer, and the base it starts from."""

from trialfleet.workloads.grpo.base import GrpoBase
from trialfleet.workloads.grpo.workload import Grpo

__all__ = ["Grpo", "GrpoBase"]
