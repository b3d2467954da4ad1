"""What interpolations in conf/ can say besides Hydra's and OmegaConf's own."""

from omegaconf import OmegaConf


def register() -> None:
    """Makes `${trialfleet.hyphenated:…}` known; whoever composes conf/ has imported `trialfleet.config`."""
    OmegaConf.register_resolver("trialfleet.hyphenated", _hyphenated, replace=True)


def _hyphenated(*parts: str | None) -> str:
    """The parts that are there, with hyphens between them: a workload without a model is known by its name alone."""
    return "-".join(str(part) for part in parts if part is not None)
