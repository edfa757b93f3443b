"""The one error that users meet: a sentence about their input, and exit code 2."""

STORE_PACKAGES = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "s3fs"}
"""Whose exceptions tell what an object store refuses."""


class UserError(Exception):
    """Bad input: the message says what was found, what is wanted and what to do.

    Command-line programs print the message without a traceback and exit with code 2.
    """


def counted(number: int, thing: str) -> str:
    """A number of things in words: 1 case, 2 cases."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks and without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def is_refusal(error: BaseException) -> bool:
    """Whether an exception is an object store's, or of the way to it."""
    return type(error).__module__.partition(".")[0] in STORE_PACKAGES
