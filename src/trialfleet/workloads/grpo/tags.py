"""The tags between which a model is asked to reason and to answer."""

REASONING, END_OF_REASONING, ANSWER, END_OF_ANSWER = TAGS = "<reasoning>", "</reasoning>", "<answer>", "</answer>"


def answered(reasoning: str, answer: str) -> str:
    """What a model should say."""
    return f"{REASONING}{reasoning}{END_OF_REASONING}{ANSWER}{answer}{END_OF_ANSWER}"
