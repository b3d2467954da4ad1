"""Measurements, each one command (`python -m benchmarks.NAME`): see README.md for what they are and what they gave."""
