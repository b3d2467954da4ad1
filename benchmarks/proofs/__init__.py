"""Proofs that take too long for the tests: `make proofs`. What they try out case by case, the tests try by samples."""
