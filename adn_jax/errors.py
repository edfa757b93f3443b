"""The one error that users meet: a sentence about their input, and exit code 2."""


class UserError(Exception):
    """Bad input: the message says what was found, what is wanted and what to do.

    Command-line programs print the message without a traceback and exit with code 2.
    """


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks and without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
