"""Writes a model of speech to text as others read its parts: a Whisper's encoder, a decoder, and what joins them."""

from pathlib import Path
from typing import Any

import numpy as np

from trialfleet.config.asr_decoder import AudioEncoder, SpeechModel
from trialfleet.training import publishing, trees
from trialfleet.training.publishing import Order
from trialfleet.training.workload import Params
from trialfleet.workloads.asr import published
from trialfleet.workloads.decoder.export import DecoderPublisher

ENCODER, DECODER, PROJECTOR = "encoder", "decoder", "projector.safetensors"


class SpeechPublisher:
    """See `trialfleet.training.publishing.Publisher`.

    The decoder is written as that of a language model, the encoder under the names that it has in a Whisper, the
    projector under ours. For adapters there is no encoder: it is never trained.

    Args:
        ends: tokens that end a text.
    """

    def __init__(self, model: SpeechModel, ends: tuple[int, ...]) -> None:
        self._model = model
        self._decoder = DecoderPublisher(model.decoder, "model.decoder", ends)

    def check(self, order: Order) -> None:
        """
        Raises:
            UserError: the decoder cannot be written so.
        """
        self._decoder.check(order)

    def write(self, folder: Path, params: Params, order: Order) -> int:
        """Write the parts, each in a folder of its own but for the projector."""
        (folder / DECODER).mkdir()
        files = self._decoder.write(folder / DECODER, params["decoder"], order)
        flat = {path: np.asarray(leaf, np.float32) for path, leaf in trees.flatten(params["projector"]).items()}
        shapes = {path: leaf.shape for path, leaf in flat.items()}
        publishing.write_file(folder / PROJECTOR, shapes, iter(flat.items()), order.dtype)
        if order.form == "adapter":
            return files + 1
        (folder / ENCODER).mkdir()
        config = self._model.encoder
        publishing.write_json(folder / ENCODER / "config.json", _settings(config, order.dtype))
        arrays = published.published(config, params["encoder"])
        there = published.published_shapes(config)
        return files + 1 + publishing.write(folder / ENCODER, there, arrays, order.dtype, order.most)


def _settings(config: AudioEncoder, dtype: str) -> dict[str, Any]:
    """config.json, as the library transformers reads it."""
    return {
        "model_type": "whisper",
        "torch_dtype": dtype,
        "num_mel_bins": config.bands,
        "d_model": config.width,
        "encoder_layers": config.layers,
        "encoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.hidden,
        "max_source_positions": published.PLACES,
        "activation_function": "gelu",
        "scale_embedding": False,
    }
