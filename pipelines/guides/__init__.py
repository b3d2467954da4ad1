"""Commands of three published guides, translated into ours: `python -m pipelines.guide`."""
