"""Schema of the networks of the workload `mvfoul`: what sees a view, how views are joined, and two heads."""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Field
from pydantic.dataclasses import dataclass

from trialfleet.config.traced import STRICT, Host, Traced

Count = Annotated[int, Ge(1)]
Widths = Annotated[tuple[Count, ...], MinLen(1)]
Taps = tuple[Count, Count, Count]  # over frames, rows and columns
Colours = tuple[float, float, float]
Problems = list[str]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FoulModel(ABC):
    """What all networks have: views that are seen one by one, joined, and judged by two heads."""

    pixel_mean: Colours  # of red, green and blue, from 0 to 1: taken away from pixels
    pixel_std: Colours  # pixels are divided by it
    # layers between views and their pooling. mlp: each view by itself; transformer: views look at each other;
    # moe: each view by one of several experts
    aggregator: Literal["none", "mlp", "transformer", "moe"]
    aggregator_layers: Count  # of the aggregator
    aggregator_heads: Count  # of attention, with aggregator: transformer
    experts: Count  # of each layer, with aggregator: moe
    pooling: Literal["mean", "attention"]  # how one vector is made of those of all views
    head_hidden: Count  # width of each head, and of the aggregator's hidden layers
    dropout: Annotated[Traced[float], Ge(0), Lt(1)]  # in the heads

    def problems(self, frames: int, size: int) -> Problems:
        """What contradicts itself or the clips, a line for each."""
        found, width = [], self.features(frames)
        if self.aggregator == "transformer" and width % self.aggregator_heads:
            found.append(f"model.aggregator_heads: {self.aggregator_heads} must divide the {width} features of a view")
        if not all(std > 0 for std in self.pixel_std):
            found.append(f"model.pixel_std: must be more than 0, got {list(self.pixel_std)}")
        return found

    @abstractmethod
    def features(self, frames: int) -> int:
        """How many numbers a view becomes."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Convolutional(FoulModel):
    """A network of convolutions, normalised by group or by batch."""

    widths: Widths  # channels of each stage
    norm: Literal["group", "batch"]  # batch: stored statistics, over the views that are there
    norm_groups: Count  # of channels, with norm: group
    norm_momentum: Annotated[Traced[float], Gt(0), Le(1)]  # weight of a new batch in stored statistics

    def normed(self) -> tuple[int, ...]:
        """Widths of what is normalised."""
        return self.widths

    def problems(self, frames: int, size: int) -> Problems:
        found = super().problems(frames, size)
        if self.norm == "group" and any(width % self.norm_groups for width in self.normed()):
            found.append(
                f"model.widths: {list(self.normed())} must be multiples of norm_groups={self.norm_groups}; norm=batch"
                " takes any width"
            )
        return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Factored(Convolutional):
    """A small network: a convolution over space and one over time for each stage, and frames that stay apart."""

    name: Literal["factored"]

    def features(self, frames: int) -> int:
        shrunk: int = 2 ** (len(self.widths) - 1)
        return self.widths[-1] * (frames // shrunk)

    def problems(self, frames: int, size: int) -> Problems:
        found, stages = super().problems(frames, size), len(self.widths)
        shrunk = 2 ** (stages + 1)  # the stem and every stage halve the sides, all stages but the first the frames
        if size % shrunk:
            found.append(f"dataset.size: must be a multiple of {shrunk}, as model.widths has {stages} stages")
        if frames % (shrunk // 4):
            found.append(f"dataset.frames: must be a multiple of {shrunk // 4}, as model.widths has {stages} stages")
        return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Resnet3d(Convolutional):
    """A residual network over space and time (Tran et al. 2018, arXiv:1711.11248), as torchvision has it."""

    name: Literal["resnet3d"]
    # r3d: convolutions over space and time at once; r2plus1d: over space, then over time
    kind: Literal["r3d", "r2plus1d"]
    weights: Host[str | None]  # a folder of published weights (safetensors) to begin from; null: drawn
    depths: Widths  # blocks of each stage; all stages but the first halve frames and sides
    stem_hidden: Count  # channels between space and time in the stem, with kind: r2plus1d

    def features(self, frames: int) -> int:
        return self.widths[-1]

    def middle(self, before: int, width: int) -> int:
        """Channels between space and time in a block that takes `before` channels and gives `width`.

        So many that the pair has as many weights as one convolution over both would have.
        """
        return before * width * 27 // (before * 9 + 3 * width)

    def normed(self) -> tuple[int, ...]:
        if self.kind == "r3d":
            return self.widths
        before = (self.widths[0], *self.widths[:-1])
        of_first = [self.middle(*pair) for pair in zip(before, self.widths, strict=True)]
        return (*self.widths, self.stem_hidden, *of_first, *(self.middle(width, width) for width in self.widths))

    def problems(self, frames: int, size: int) -> Problems:
        if len(self.depths) != len(self.widths):
            return [f"model.depths: {len(self.depths)} given for {len(self.widths)} stages of model.widths"]
        found = super().problems(frames, size)
        if self.weights is not None and self.norm != "batch":
            found.append(f"model.norm: {self.norm}, but model.weights are normalised by batch; take norm=batch")
        return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mvit(FoulModel):
    """A multiscale vision transformer, MViTv2 (Li et al. 2022, arXiv:2112.01526)."""

    name: Literal["mvit"]
    weights: Host[str | None]  # a folder of published weights (safetensors) to begin from; null: drawn
    widths: Widths  # of each stage; all stages but the first halve the sides
    depths: Widths  # blocks of each stage
    heads: Widths  # of attention in each stage
    patch: Taps  # frames, rows and columns that a token is made of
    patch_stride: Taps  # frames, rows and columns from a token to the next
    key_stride: Count  # of keys and values within a frame in the first stage; half of it in each next one, at least 1
    # chance that a view does without the last block's branches; it grows from 0 in the first block
    stochastic_depth: Annotated[Traced[float], Ge(0), Lt(1)]

    def features(self, frames: int) -> int:
        return self.widths[-1]

    def problems(self, frames: int, size: int) -> Problems:
        stages = len(self.widths)
        for name, given in (("depths", self.depths), ("heads", self.heads)):
            if len(given) != stages:
                return [f"model.{name}: {len(given)} given for {stages} stages of model.widths"]
        found = super().problems(frames, size)
        if any(width % heads for width, heads in zip(self.widths, self.heads, strict=True)):
            found.append(f"model.widths: {list(self.widths)} must be multiples of model.heads={list(self.heads)}")
        if any(taps % 2 == 0 for taps in self.patch):
            found.append(f"model.patch: must be odd, got {list(self.patch)}")
        if self.patch_stride[1] != self.patch_stride[2]:
            found.append(f"model.patch_stride: rows and columns must be alike, got {list(self.patch_stride)}")
        if frames % self.patch_stride[0]:
            found.append(f"dataset.frames: must be a multiple of model.patch_stride[0]={self.patch_stride[0]}")
        shrunk = self.patch_stride[1] * max(2 ** (stages - 1), self.key_stride)
        if size % shrunk:
            found.append(f"dataset.size: must be a multiple of {shrunk}, by model.patch_stride, widths and key_stride")
        return found


Network = Annotated[Factored | Resnet3d | Mvit, Field(discriminator="name")]
