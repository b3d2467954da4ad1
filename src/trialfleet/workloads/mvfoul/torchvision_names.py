"""Under which names torchvision publishes what our networks are made of: r3d_18, r2plus1d_18, mvit_v2_s."""

from trialfleet.config.mvfoul_models import Mvit, Resnet3d
from trialfleet.workloads.mvfoul import mvit, resnet3d
from trialfleet.workloads.mvfoul.published import Array

HEADS = r"(fc|head)\..*"  # names of the published heads, which nobody here wants


def of(config: Resnet3d | Mvit) -> dict[str, Array]:
    """The published arrays by the paths of our leaves, and of the statistics of batch norm."""
    return _of_resnet3d(config) if isinstance(config, Resnet3d) else _of_mvit(config)


def _of_resnet3d(config: Resnet3d) -> dict[str, Array]:
    found = _convolution(config, "stem/conv", "stem/norm", "stem", "", 4)
    for name, block in resnet3d.blocks(config).items():
        there = f"layer{block.stage + 1}.{block.number}"
        for number in (1, 2):
            conv = f"{there}.conv{number}"
            found |= _convolution(config, f"{name}/conv{number}", f"{name}/norm{number}", conv, ".0", 1)
        if block.shortened:
            found[f"{name}/shortcut"] = Array(f"{there}.downsample.0.weight", "convolution")
            found |= _batch_norm(f"{name}/shortcut_norm", f"{there}.downsample.1")
    if config.norm == "group":
        found = {path: array for path, array in found.items() if "norm" not in path}
    return found


def _convolution(config: Resnet3d, path: str, norm: str, name: str, inner: str, behind: int) -> dict[str, Array]:
    """A convolution and the norm behind it.

    Args:
        inner: what the name of a pair of convolutions has besides.
        behind: the number of the norm behind a pair.
    """
    if config.kind == "r3d":
        return {path: Array(f"{name}.0.weight", "convolution"), **_batch_norm(norm, f"{name}.1")}
    return {
        f"{path}_space": Array(f"{name}{inner}.0.weight", "convolution"),
        **_batch_norm(f"{path}_norm", f"{name}{inner}.1"),
        f"{path}_time": Array(f"{name}{inner}.3.weight", "convolution"),
        **_batch_norm(norm, f"{name}.{behind}"),
    }


def _batch_norm(path: str, name: str) -> dict[str, Array]:
    kinds = {"_scale": "weight", "_bias": "bias", "/mean": "running_mean", "/var": "running_var"}
    return {f"{path}{own}": Array(f"{name}.{theirs}") for own, theirs in kinds.items()}


def _of_mvit(config: Mvit) -> dict[str, Array]:
    found = {
        "stem/patch": Array("conv_proj.weight", "convolution"),
        "stem/patch_bias": Array("conv_proj.bias"),
        "stem/class_token": Array("pos_encoding.class_token"),
    }
    widths = [width for width, depth in zip(config.widths, config.depths, strict=True) for _ in range(depth)]
    for n, (before, width) in enumerate(zip([config.widths[0], *widths], widths, strict=False)):
        own = _block(f"blocks.{n}", before != width)
        found |= {f"block{n}/{path}": array for path, array in own.items()}
    return found | _layer_norm(f"block{len(widths) - 1}/last_norm", "norm")


def _block(name: str, wider: bool) -> dict[str, Array]:
    found = {
        "qkv": Array(f"{name}.attn.qkv.weight", "linear"),
        "qkv_bias": Array(f"{name}.attn.qkv.bias"),
        "out": Array(f"{name}.attn.project.0.weight", "linear", inputs=2),
        "out_bias": Array(f"{name}.attn.project.0.bias"),
        "up": Array(f"{name}.mlp.0.weight", "linear"),
        "up_bias": Array(f"{name}.mlp.0.bias"),
        "down": Array(f"{name}.mlp.3.weight", "linear"),
        "down_bias": Array(f"{name}.mlp.3.bias"),
        **_layer_norm("norm1", f"{name}.norm1"),
        **_layer_norm("norm2", f"{name}.norm2"),
    }
    for ours, theirs in zip(mvit.POOLED, "qkv", strict=True):
        found[f"pool_{ours}"] = Array(f"{name}.attn.pool_{theirs}.pool.weight", "depthwise")
        found |= _layer_norm(f"pool_{ours}_norm", f"{name}.attn.pool_{theirs}.norm_act.0")
    for ours, theirs in zip(mvit.TABLES, "thw", strict=True):
        found[f"apart_{ours}"] = Array(f"{name}.attn.rel_pos_{theirs}")
    if wider:
        found |= {"widen": Array(f"{name}.project.weight", "linear"), "widen_bias": Array(f"{name}.project.bias")}
    return found


def _layer_norm(path: str, name: str) -> dict[str, Array]:
    return {f"{path}_scale": Array(f"{name}.weight"), f"{path}_bias": Array(f"{name}.bias")}
