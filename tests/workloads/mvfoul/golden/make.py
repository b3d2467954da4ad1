"""What torchvision makes of models: `python -m tests.workloads.mvfoul.golden.make`, from the project's root.

Names and shapes of the arrays of its video models, true ones and small ones of its own classes; and what they make of
some views, with weights drawn by `reference.py`. Needs the extra `reference`; the tests need what it wrote alone.
"""

import json
from collections.abc import Callable

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.video import mvit_v2_s, r2plus1d_18, r3d_18
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DSimple, VideoResNet

from tests.workloads.mvfoul import reference
from trialfleet.config.mvfoul_models import Mvit
from trialfleet.workloads.mvfoul import mvit


class SmallResNet(VideoResNet):
    """A VideoResNet of other widths: its own constructor knows one."""

    def __init__(self, conv: type[nn.Module], stem: nn.Sequential, widths: tuple[int, ...], depths: tuple[int, ...]):
        nn.Module.__init__(self)
        self.inplanes, self.stem = widths[0], stem
        for n, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            layer = self._make_layer(BasicBlock, conv, width, depth, stride=1 if n == 0 else 2)
            setattr(self, f"layer{n + 1}", layer)
        self.avgpool, self.fc = nn.AdaptiveAvgPool3d((1, 1, 1)), nn.Identity()


def small_resnet(name: str) -> nn.Module:
    own = reference.config(name).model
    width, hidden = own.widths[0], own.stem_hidden
    if own.kind == "r3d":
        first = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        stem = nn.Sequential(first, nn.BatchNorm3d(width), nn.ReLU())
        return SmallResNet(Conv3DSimple, stem, own.widths, own.depths)
    first = nn.Conv3d(3, hidden, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
    second = nn.Conv3d(hidden, width, (3, 1, 1), (1, 1, 1), (1, 0, 0), bias=False)
    stem = nn.Sequential(first, nn.BatchNorm3d(hidden), nn.ReLU(), second, nn.BatchNorm3d(width), nn.ReLU())
    return SmallResNet(Conv2Plus1D, stem, own.widths, own.depths)


def settings_of(model: MViT) -> list[MSBlockConfig]:
    """What the blocks of a model of torchvision's were made of."""
    return [
        MSBlockConfig(
            num_heads=block.attn.num_heads,
            input_channels=block.norm1.normalized_shape[0],
            output_channels=block.attn.output_dim,
            kernel_q=list(block.attn.pool_q.pool.kernel_size),
            kernel_kv=list(block.attn.pool_k.pool.kernel_size),
            stride_q=list(block.attn.pool_q.pool.stride),
            stride_kv=list(block.attn.pool_k.pool.stride),
        )
        for block in model.blocks
    ]


def small_settings(own: Mvit) -> list[MSBlockConfig]:
    """The blocks of our small model."""
    return [
        MSBlockConfig(
            num_heads=block.heads,
            input_channels=block.before,
            output_channels=block.width,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=list(block.query_stride),
            stride_kv=list(block.key_stride),
        )
        for block in mvit.blocks(own, reference.FRAMES, reference.SIZE)
    ]


def for_the_views(settings: list[MSBlockConfig]) -> MViT:
    """A transformer as `mvit_v2_s` is one, for the views that are looked at."""
    return MViT(
        spatial_size=(reference.SIZE, reference.SIZE),
        temporal_size=reference.FRAMES,
        block_setting=settings,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
    )


SMALL_VIEWS = "mvit_v2_s of small views"
MODELS: dict[str, Callable[[], nn.Module]] = {
    "r3d_18": r3d_18,
    "r2plus1d_18": r2plus1d_18,
    "mvit_v2_s": mvit_v2_s,
    SMALL_VIEWS: lambda: for_the_views(settings_of(mvit_v2_s())),
    **{name: lambda name=name: small_resnet(name) for name in ("small_r3d", "small_r2plus1d")},
    "small_mvit": lambda: for_the_views(small_settings(reference.config("small_mvit").model)),
}


def main() -> None:
    shapes, said = {}, {}
    x = torch.from_numpy(reference.views()).permute(0, 4, 1, 2, 3)
    for name, make in MODELS.items():
        model = make().eval()
        arrays = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        shapes[name] = arrays
        if name == "mvit_v2_s":
            continue  # it takes views of its own size alone
        model.load_state_dict({key: torch.from_numpy(value) for key, value in reference.drawn(arrays).items()})
        for head in ("fc", "head"):
            if hasattr(model, head):
                setattr(model, head, nn.Identity())
        with torch.no_grad():
            said[name] = model(x).contiguous()
        print(f"{name}: {sum(value.numel() for value in model.parameters())} parameters, {said[name].std():.3f}")
    (reference.GOLDEN / "shapes.json").write_text(json.dumps(shapes, separators=(",", ":")) + "\n")
    save_file(said, reference.GOLDEN / "said.safetensors")


if __name__ == "__main__":
    main()
