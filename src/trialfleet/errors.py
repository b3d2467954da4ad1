"""The error that a person reads: it names the key or file, what is wrong and what to do."""


class UserError(Exception):
    """Something the user can put right. Shown as a short message without a traceback.

    Args:
        message: what is wrong, naming the key or file.
        fix: what to do about it; shown on a line of its own.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message
