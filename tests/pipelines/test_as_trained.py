"""What is typed of a command about a checkpoint, read as Hydra would read it."""

from pipelines import as_trained


def test_a_folder_is_read_as_hydra_would() -> None:
    for word in ("checkpoint='a b/c'", 'checkpoint="a b/c"', "++checkpoint=a b/c"):
        assert (as_trained.key(word), as_trained.text(word)) == ("checkpoint", "a b/c")
    assert as_trained.text("checkpoint=/a/it's") == "/a/it's"
    assert as_trained.text(f"checkpoint={as_trained.quoted('/a/it is, here')}") == "/a/it is, here"
    assert as_trained.text(f"checkpoint={as_trained.quoted(chr(39))}") == chr(39)
