"""What transformers and peft make of small models: `python tests/workloads/decoder/golden/make.py`.

For each family a folder of random weights in the published layout, the logits of some tokens, and what an adapter's
files are. Needs the extra `reference`; the tests need what it wrote alone.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

HERE = Path(__file__).parent
TOKENS = 13  # of a sequence: more than twice a window
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# Layers of both kinds, the last ones without a global one; a scale of queries that is not the head's size.
GEMMA3 = Gemma3TextConfig(
    vocab_size=80,
    hidden_size=32,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=40,
    sliding_window=5,
    layer_types=["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
    rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    },
    query_pre_attn_scalar=12,
    max_position_embeddings=64,
    attn_implementation="eager",
)
LLAMA = LlamaConfig(
    vocab_size=80,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=8,
    intermediate_size=40,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    tie_word_embeddings=False,
    max_position_embeddings=64,
    attn_implementation="eager",
)


def drawn(model: PreTrainedModel) -> PreTrainedModel:
    """The model with weights that keep a signal's size, and norms that are no identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.2 * noise if parameter.ndim == 1 else noise * parameter.shape[1] ** -0.5)
    return model.eval()


def write(name: str, model: PreTrainedModel, part: str) -> None:
    """Everything of one model; its files have at most `part`."""
    model.save_pretrained(HERE / name, max_shard_size=part)
    tokens = torch.randint(1, model.config.vocab_size, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(tokens).logits
    save_file({"tokens": tokens.int(), "logits": logits}, HERE / f"{name}_said.safetensors")
    config = LoraConfig(r=3, lora_alpha=12, target_modules=list(MODULES), task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(HERE / "adapter")
    with safe_open(HERE / "adapter" / "adapter_model.safetensors", framework="pt") as file:
        arrays = {key: file.get_slice(key).get_shape() for key in sorted(file.keys())}
    settings = json.loads((HERE / "adapter" / "adapter_config.json").read_text())
    record = {"arrays": arrays, "config": {**settings, "target_modules": sorted(settings["target_modules"])}}
    (HERE / f"{name}_adapter.json").write_text(json.dumps(record, indent=1) + "\n")
    for path in (HERE / "adapter").iterdir():
        path.unlink()
    (HERE / "adapter").rmdir()


if __name__ == "__main__":
    write("gemma3", drawn(Gemma3ForCausalLM(GEMMA3)), "60KB")
    write("llama", drawn(LlamaForCausalLM(LLAMA)), "1GB")
