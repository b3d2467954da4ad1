"""Fouls in football from several cameras: how severe, and what kind of action."""

from trialfleet.workloads.mvfoul.workload import Mvfoul

__all__ = ["Mvfoul"]
