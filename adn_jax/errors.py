"""The one error that users meet: a sentence about their input, and exit code 2."""

import errno
from collections.abc import Sequence

STORE_PACKAGES = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "s3fs"}
"""Whose exceptions tell what an object store refuses."""

TRACEBACK = "Traceback (most recent call last):"
"""What Python prints above the frames of an exception."""

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system says where no more can be written."""

UNCAUGHT = 1
"""Exit code of a process that an exception has ended."""


class UserError(Exception):
    """Bad input: the message says what was found, what is wanted and what to do.

    Command-line programs print the message without a traceback and exit with code 2.
    """


def counted(number: int, thing: str) -> str:
    """A number of things in words: 1 case, 2 cases."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def few_of(names: Sequence[str], most: int = 10) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks and without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def typed_line(error: BaseException) -> str:
    """The type of an error that nobody foresaw and its message: 'Rows' is all that a
    KeyError says."""
    said, kind = one_line(error), type(error).__name__
    return said if said == kind else f"{kind}: {said}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's, NumPy's or XLA's."""
    of_xla = type(error).__name__ in {"JaxRuntimeError", "XlaRuntimeError"}
    exhausted = of_xla and "RESOURCE_EXHAUSTED" in str(error)
    return exhausted or isinstance(error, MemoryError)


def memory_sentence(error: BaseException) -> str:
    """What to do where memory ran out all the same."""
    what = one_line(error) if str(error) else "the system gave no more"
    return (
        f"memory ran out ({what[:200]}); end other programs, or compute fewer maps at "
        "once: a smaller batch, more micro-batches, --remat blocks or --precision "
        "bfloat16 in training, a smaller grid in all else."
    )


def last_words(code: int, said: str) -> str:
    """Why a process ended, in a line of what it printed; empty if it printed none.

    Of an exception that is its own line, `ValueError: ...`, not what stands below it:
    the rest of a long message, or what JAX says of frames that it left out.
    """
    _, raised, below = said.rpartition(TRACEBACK)
    lines = [line for line in below.splitlines() if any(map(str.isalnum, line))]
    if raised and code == UNCAUGHT:
        lines = [line for line in lines if not line[0].isspace()][:1]
    return lines[-1].strip() if lines else ""


def is_refusal(error: BaseException) -> bool:
    """Whether an exception is an object store's, or of the way to it."""
    return type(error).__module__.partition(".")[0] in STORE_PACKAGES
