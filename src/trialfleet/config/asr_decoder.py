"""Schema of the workload `asr_decoder`: speech to text by an encoder, a projector and a decoder language model."""

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.dataclasses import dataclass

from trialfleet.config.decoder import Decoder, Temperature, TopK, TopP
from trialfleet.config.schema import Config
from trialfleet.config.traced import STRICT, Gated, Host, Traced

Count = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AudioEncoder:
    """The encoder of Whisper (Radford et al. 2022, arXiv:2212.04356): two convolutions, then a transformer."""

    weights: Host[str | None]  # a folder of published weights (safetensors) to begin from; null: drawn
    # of the log-mel spectrogram; of more, some would lie between two of its 201 frequencies and hear nothing
    bands: Annotated[int, Ge(3), Le(149)]
    width: Annotated[int, Ge(4)]  # of the residual stream
    layers: Count  # blocks of attention and feed-forward
    heads: Count  # of width / heads each
    hidden: Count  # of the feed-forward part
    # frames look at the silence behind a recording, as Whisper's weights are used to; false: at the recording alone
    hears_silence: bool

    def problems(self) -> list[str]:
        """What contradicts itself, a line for each."""
        found = []
        if self.width % self.heads:
            found.append(f"model.encoder.width: {self.width} must be a multiple of heads={self.heads}")
        if self.width % 2:
            found.append(f"model.encoder.width: must be even, got {self.width}")
        return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Projector:
    """From what the encoder hears to what the decoder reads: a norm, and two layers around a GELU."""

    stack: Count  # so many of the encoder's frames, of 20 ms, become one of the decoder's
    kernel_size: Annotated[int, Ge(1)]  # so many of these the first layer sees at once, around each; odd
    dropout: Annotated[Gated[float], Ge(0), Lt(1)]  # share of both layers' inputs that is not seen in training
    hidden: Count  # between the two layers
    scale: Annotated[float, Gt(0)]  # of the last layer's first weights: small, so that speech begins as a whisper
    # weight of a second loss: what the projector gives, scored by the decoder's embeddings, spells the text (CTC)
    ctc_weight: Annotated[Gated[float], Ge(0)]
    merges: bool  # frames that spell the same token become one, those that spell none are left out; wants ctc_weight


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SpeechModel:
    """An audio encoder, a projector and a decoder with adapters."""

    name: Literal["speech"]
    text_dropout: Annotated[Gated[float], Ge(0), Lt(1)]  # share of a text's tokens that are not seen in training
    encoder: AudioEncoder
    projector: Projector
    decoder: Decoder


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recordings:
    """Files with what is said in them: lists (.jsonl, .csv), or folders in LibriSpeech's layout."""

    name: Literal["recordings"]
    train: Annotated[Host[tuple[str, ...]], MinLen(1)]  # lists or folders
    val: Host[tuple[str, ...]]  # lists or folders; none: held out from train
    test: Host[tuple[str, ...]]  # lists or folders; none: held out from train
    held_out: Annotated[float, Ge(0), Le(0.4)]  # share of all texts, for each of val and test that has no files
    split_seed: Annotated[int, Ge(0)]  # decides which texts are held out
    max_audio_seconds: Annotated[float, Gt(0)]  # longer recordings are left out, and counted
    max_text_words: Count  # recordings with more words are left out, and counted
    max_text_tokens: Count  # recordings with more tokens are left out, and counted
    max_train_samples: Count | None  # the first so many; null: all
    max_eval_samples: Count | None  # the first so many of an evaluation; null: all
    buckets: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)]  # seconds; each compiles a program of its own
    normalized: bool  # texts are learned as Whisper's normaliser writes them: lower case, no punctuation
    # in training a recording is heard at one of these, drawn each time; 1.1: a tenth faster, and higher
    speeds: Annotated[tuple[Annotated[float, Ge(0.5), Le(2)], ...], MinLen(1)]
    time_masks: Annotated[int, Ge(0)]  # SpecAugment: stretches of time that are masked
    time_mask_frames: Count  # frames of 10 ms in each, at most
    band_masks: Annotated[int, Ge(0)]  # SpecAugment: stretches of bands that are masked
    band_mask_bands: Count  # bands in each, at most
    max_damaged: Annotated[float, Ge(0), Le(1)]  # share of files that may be unreadable; they are named and counted
    cache_mb: Annotated[Host[int], Ge(0)]  # of spectrograms that a process keeps in memory
    disk_cache: Host[str | None]  # a folder in which spectrograms are kept for all trainings; null: none
    disk_cache_mb: Annotated[Host[int], Ge(1)]  # of spectrograms there; those that were not used for longest go


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Transcription:
    """How a text is found in an evaluation."""

    max_tokens: Count | None  # of a text, its end included; null: as many as a text of the data may have
    min_tokens: Annotated[Traced[int], Ge(0)]  # before the end of a text
    beams: Count  # beginnings that are kept in search of the likeliest text; 1: none is searched for, tokens are drawn
    length_penalty: Traced[float]  # of beams: a text's log-probability is divided by its length to this power
    # by this much the score of a token is divided once the text has it (below 0: multiplied); null: never
    repetition_penalty: Annotated[Traced[float], Gt(0)] | None
    no_repeat_ngram: Count | None  # so many tokens in a row come once in a text; null: as often as they may
    temperature: Temperature  # logits are divided by it, where tokens are drawn
    top_p: TopP  # only the likeliest tokens of together this probability are drawn
    top_k: TopK  # only so many of the likeliest tokens are drawn; 1: always the likeliest; null: all
    eos_tokens: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]  # token ids that end a text
    # of what the projector spells: it is taken where it is the likelier text, by so much of its own log-probability and
    # by the rest of the decoder's; 0: never. Wants model.projector.ctc_weight
    ctc_weight: Annotated[Gated[float], Ge(0), Le(1)]
    # weights of the decoder that fsdp splits are gathered once before a text is written; false: for each token, where a
    # device has no room for all of them
    gather_weights: bool

    def problems(self, tokens: int, vocabulary: int) -> list[str]:
        """What contradicts itself, a line for each.

        Args:
            tokens: of a text, at most.
            vocabulary: tokens that the model knows.
        """
        found = []
        if self.min_tokens >= tokens:
            found.append(
                f"transcription.min_tokens: {self.min_tokens}, and a text has {tokens} at most with its end; choose "
                "fewer, or more in transcription.max_tokens"
            )
        if self.beams > 1 and self.top_k != 1:
            found.append(
                f"transcription.top_k: {self.top_k}, and with transcription.beams={self.beams} nothing is drawn; set "
                "it to 1"
            )
        if max(self.eos_tokens) >= vocabulary:
            found.append("transcription.eos_tokens: there are tokens beyond model.decoder.vocab_size; take them out")
        return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AsrDecoderConfig(Config):
    """Config of speech to text by a decoder."""

    METRICS: ClassVar[frozenset[str]] = frozenset(
        {"val/wer", "val/cer", "val/loss", "val/insertions", "val/deletions", "val/substitutions"}
    )

    model: SpeechModel
    dataset: Recordings
    transcription: Transcription

    def metrics(self) -> frozenset[str]:
        return self.METRICS | ({"train/ctc"} if self.model.projector.ctc_weight != 0 else set())

    def published(self) -> dict[str, str | None]:
        return {
            "model.encoder.weights": self.model.encoder.weights,
            "model.decoder.weights": self.model.decoder.weights,
        }

    def data_files(self) -> dict[str, tuple[str, ...]]:
        data = self.dataset
        return {"dataset.train": data.train, "dataset.val": data.val, "dataset.test": data.test}

    @property
    def drawn_tokens(self) -> int:
        """Tokens of a text that is found, at most, its end included."""
        return self.transcription.max_tokens or self.dataset.max_text_tokens + 1

    def problems(self) -> list[str]:
        data, problems = self.dataset, [*super().problems(), *self.model.encoder.problems()]
        problems += self.model.decoder.problems("model.decoder")
        if self.model.projector.kernel_size % 2 == 0:
            problems.append(f"model.projector.kernel_size: must be odd, got {self.model.projector.kernel_size}")
        spells = {
            "model.projector.merges": self.model.projector.merges,
            "transcription.ctc_weight": self.transcription.ctc_weight != 0,
        }
        problems += [
            f"{key}: what frames spell is learned by a second loss; set model.projector.ctc_weight above 0"
            for key, wanted in spells.items()
            if wanted and self.model.projector.ctc_weight == 0
        ]
        if list(data.buckets) != sorted(set(data.buckets)):
            problems.append(f"dataset.buckets: must rise, got {list(data.buckets)}")
        if data.buckets[-1] < data.max_audio_seconds:
            problems.append(
                f"dataset.buckets: the longest is {data.buckets[-1]} s, and dataset.max_audio_seconds "
                f"{data.max_audio_seconds}; add one"
            )
        if data.held_out == 0 and not (data.val and data.test):
            problems.append("dataset.held_out: 0, and dataset.val or dataset.test has no files; set one of them")
        return [*problems, *self.transcription.problems(self.drawn_tokens, self.model.decoder.vocab_size)]
