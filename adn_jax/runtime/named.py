"""Functions that a user names on the command line, `module:function`."""

import importlib
from collections.abc import Callable
from typing import Any

from adn_jax.errors import UserError, typed_line
from adn_jax.io.paths import find_modules_here


def named_function(module: str, function: str, what: str) -> Callable[..., Any]:
    """Import a function; modules in the folder of the call are found, too.

    `what` is what the function is meant for, in messages. Raises `UserError` if the
    module cannot be imported or has no such function.
    """
    find_modules_here()
    try:
        found = importlib.import_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the module {module!r} of the {what} {module}:{function} cannot be "
            f"imported ({typed_line(error)}); run the command in the "
            "folder that holds it, or correct the module."
        ) from error
    named = getattr(found, function, None)
    if not callable(named):
        raise UserError(
            f"the module {module!r} ({getattr(found, '__file__', 'built in')}) has no "
            f"function {function!r}; correct the name of the {what}."
        )
    return named
