"""The typed schema of conf/, what is derived from it, and how a composed config becomes one.

Imports neither jax nor any workload: the driver of a sweep validates and compares configs with it.
"""

from trialfleet.config import resolvers
from trialfleet.config.derive import hyperparameters, signature, static_part
from trialfleet.config.load import load
from trialfleet.config.schema import Config

__all__ = ["Config", "hyperparameters", "load", "signature", "static_part"]

resolvers.register()
