"""Makes characters.json anew, a tokenizer for models of 80 tokens: run it as a script."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")


def main() -> None:
    characters = sorted(set("user\nmodel\n0123456789+=?, <reasoning></reasoning><answer></answer>"))
    made = Tokenizer(models.WordLevel({token: n for n, token in enumerate((*SPECIAL, *characters))}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    made.save(str(Path(__file__).with_name("characters.json")))


if __name__ == "__main__":
    main()
