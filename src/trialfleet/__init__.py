"""Trialfleet: hyperparameter sweeps of sharded JAX training on Slurm."""
