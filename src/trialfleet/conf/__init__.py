"""The configs that trialfleet adds to any Hydra application: hydra/sweeper=trialfleet and its groups."""
