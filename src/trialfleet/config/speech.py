"""Schema of a speech encoder of Whisper's kind."""

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from trialfleet.config.traced import STRICT, Host


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AudioEncoder:
    """The encoder of Whisper (Radford et al. 2022, arXiv:2212.04356): two convolutions, then a transformer."""

    name: Literal["whisper"]
    weights: Host[str | None]  # a folder of published weights (safetensors) to begin from; null: drawn
    bands: Annotated[int, Ge(1)]  # of the log-mel spectrogram
    width: Annotated[int, Ge(2)]  # of the residual stream
    layers: Annotated[int, Ge(1)]  # blocks of attention and feed-forward
    heads: Annotated[int, Ge(1)]  # of width / heads each
    hidden: Annotated[int, Ge(1)]  # of the feed-forward part

    def problems(self, key: str) -> list[str]:
        """What contradicts itself, a line for each."""
        found = []
        if self.width % self.heads:
            found.append(f"{key}.width: {self.width} must be a multiple of {key}.heads={self.heads}")
        if self.width % 2:
            found.append(f"{key}.width: must be even, got {self.width}")
        return found
