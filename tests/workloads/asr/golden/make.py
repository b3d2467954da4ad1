"""What transformers makes of a small Whisper encoder: `python tests/workloads/asr/golden/make.py`.

Random weights in the published layout, two spectrograms, and what is heard in them. Needs the extra `reference`; the
tests need what it wrote alone.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

HERE = Path(__file__).parent
FRAMES = 16
CONFIG = WhisperConfig(
    d_model=24,
    encoder_layers=2,
    encoder_attention_heads=3,
    encoder_ffn_dim=40,
    num_mel_bins=10,
    max_source_positions=FRAMES,
    attn_implementation="eager",
    vocab_size=60,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)


def main() -> None:
    model, generator = WhisperEncoder(CONFIG).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "embed_positions.weight":
                noise = torch.randn(parameter.shape, generator=generator)
                inputs = parameter[0].numel()
                parameter.copy_(parameter + 0.2 * noise if parameter.ndim == 1 else noise * inputs**-0.5)
        features = torch.randn(2, CONFIG.num_mel_bins, 2 * FRAMES, generator=generator)
        encoded = model(features).last_hidden_state
    arrays = {f"model.encoder.{name}": leaf.contiguous() for name, leaf in model.state_dict().items()}
    (HERE / "whisper").mkdir(exist_ok=True)
    save_file(arrays, HERE / "whisper" / "model.safetensors")
    save_file({"features": features.transpose(1, 2).contiguous(), "encoded": encoded}, HERE / "said.safetensors")


if __name__ == "__main__":
    main()
