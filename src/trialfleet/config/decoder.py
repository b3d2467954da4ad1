"""Schema of a decoder-only language model and of how completions are drawn from it, whatever workload has it."""

import re
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.dataclasses import dataclass

from trialfleet.config.traced import STRICT, Gated, Host, Traced

# Of each layer, by their path in it: those that can be adapted.
WEIGHTS = (
    "attn/q_einsum",
    "attn/kv_einsum",
    "attn/attn_vec_einsum",
    "mlp/gate_proj",
    "mlp/up_proj",
    "mlp/down_proj",
)

Temperature = Annotated[Traced[float], Gt(0)]
TopP = Annotated[Traced[float], Gt(0), Le(1)]
TopK = Annotated[int, Ge(1)] | None  # null: all tokens


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Decoder:
    """A decoder-only language model."""

    name: Literal["gemma3", "llama"]  # the family: what no size says, such as where norms are
    weights: Host[str | None]  # a folder of published weights (safetensors), from which all begins; null: drawn
    # the file, or its folder: tokenizer.json or tokenizer.model; pkg://package/file: in a package; null: as `weights`
    tokenizer: Host[str | None]
    vocab_size: Annotated[int, Ge(1)]  # tokens that there are, those that nothing stands for included
    width: Annotated[int, Ge(1)]  # of the residual stream
    layers: Annotated[int, Ge(1)]  # blocks of attention and feed-forward
    # layers are compiled as one, in a loop; false: each by itself, which a CPU finishes sooner and a compiler later
    scan_layers: bool
    heads: Annotated[int, Ge(1)]  # of the queries
    kv_heads: Annotated[int, Ge(1)]  # each shared by heads / kv_heads queries
    head_dim: Annotated[int, Ge(2)]  # width of a head
    hidden: Annotated[int, Ge(1)]  # of the feed-forward part
    window: Annotated[int, Ge(1)] | None  # tokens that a local layer looks back, its own included; null: all
    global_every: Annotated[int, Ge(1)]  # every so many layers one sees all tokens
    local_rope_base: Annotated[float, Gt(0)]  # wavelengths of the positions in local layers
    global_rope_base: Annotated[float, Gt(0)]  # wavelengths of the positions in global layers
    global_rope_factor: Annotated[float, Gt(0)]  # positions are divided by it in global layers
    query_scale: Annotated[int, Ge(1)] | None  # products of queries and keys are divided by its root; null: head_dim
    norm_epsilon: Annotated[float, Gt(0)]  # added to the mean of squares, of which a norm takes the root
    tied: bool  # scores of tokens come from their embeddings; false: from a matrix of their own
    lora_rank: Annotated[int, Ge(1)] | None  # null: no adapters, all weights are trained
    lora_alpha: Annotated[Traced[float], Gt(0)]  # the adapters' output is scaled by lora_alpha / lora_rank
    lora_dropout: Annotated[Gated[float], Ge(0), Lt(1)]  # share of their inputs that adapters do not see in training
    lora_module_path: str  # a regular expression of the layers' weights that are adapted

    def problems(self, at: str = "model") -> list[str]:
        """What contradicts itself, a line for each.

        Args:
            at: where the model stands in the config.
        """
        problems = []
        if self.heads % self.kv_heads:
            problems.append(f"{at}.heads: {self.heads} must be a multiple of {at}.kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            problems.append(f"{at}.head_dim: must be even, got {self.head_dim}")
        if self.lora_rank is not None:
            problems += self._problems_of_adapters(f"{at}.lora_module_path")
        return problems

    def adapted(self) -> list[str]:
        """The weights that have adapters.

        Raises:
            re.error: `lora_module_path` is no regular expression.
        """
        if self.lora_rank is None:
            return []
        return [name for name in WEIGHTS if re.fullmatch(self.lora_module_path, f"layers/{name}")]

    def _problems_of_adapters(self, key: str) -> list[str]:
        try:
            fits = self.adapted()
        except re.error as error:
            return [f"{key}: {self.lora_module_path!r} is no regular expression: {error}"]
        if fits:
            return []
        names = ", ".join(f"layers/{name}" for name in WEIGHTS)
        return [f"{key}: {self.lora_module_path!r} fits none of the weights that can be adapted, {names}"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Generation:
    """How completions are drawn while training."""

    max_prompt_length: Annotated[int, Ge(1)]  # tokens; shorter prompts are padded on the left
    max_generation_steps: Annotated[int, Ge(1)]  # tokens of a completion, at most
    temperature: Temperature  # logits are divided by it
    top_p: TopP  # only the likeliest tokens of together this probability are drawn
    top_k: TopK  # only so many of the likeliest tokens are drawn; null: all
    eos_tokens: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]  # token ids that end a completion
    # weights that fsdp splits are gathered once before completions are drawn; false: layer by layer for each token,
    # where a device has no room for all of them
    gather_weights: bool
    # layers are taken out of their stack once before completions are drawn: quicker on a CPU, with room for them twice;
    # false: for each token, which costs a GPU nothing. Weights that fsdp splits and gather_weights=false stay in it
    unstack_weights: bool
