"""`adn VERB`: finds the verb, turns errors into one sentence."""

import importlib
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence

from adn_jax.distributed.preemption import keep_interrupts
from adn_jax.errors import (
    UserError,
    is_out_of_memory,
    is_refusal,
    memory_sentence,
    one_line,
)

VERBS = {
    "phantom": "make head phantoms with known lesions, tissue and pose",
    "prepare": "turn raw scans (NIfTI, DICOM) into prepared cases",
    "pack": "put prepared cases into few large files, for object stores",
    "train": "train every stage of a recipe that is not finished yet",
    "evaluate": "score a run on held-out cases; tables, figures, report",
    "table": "train and compare several recipes on the same data: the paper's Table 1",
    "sweep": "train and score a recipe for several values of its settings",
    "predict": "segment unseen scans, results on each scan's own grid",
    "benchmark": "time training and inference, beside PyTorch if asked",
    "plan": "compile train steps for TPUs and GPUs that are not here: do they fit?",
    "export": "write prepared cases in nnU-Net's raw layout, for its peers",
    "export-model": "write a run's chain for programs without this package",
    "completion": "print a script that completes verbs and options in a shell",
    "import-torch": "turn the authors' PyTorch checkpoints into a run",
}


ANEW = {"predict", "benchmark", "plan", "export-model", "completion", "import-torch"}
"""Verbs that do not go on where the same command was stopped."""

KEEPS_IN_OUT = {"plan"}
"""Those of them that do where --out names a folder for what is done."""


def is_continued(verb: str, options: Sequence[str]) -> bool:
    """Whether the same command goes on where it was stopped."""
    has_out = any(option.partition("=")[0] == "--out" for option in options)
    return verb not in ANEW or (verb in KEEPS_IN_OUT and has_out)


def usage() -> str:
    """The verbs, a line each."""
    lines = [f"  {verb:<14}{meaning}" for verb, meaning in VERBS.items()]
    ends = ["", "adn VERB --help tells more."]
    return "\n".join(["usage: adn VERB ...", "", *lines, *ends])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; exit code 2 for a mistake in the call or its input."""
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in {"-h", "--help"}:
        print(usage())
        return
    if verb not in VERBS:
        print(f"adn: there is no verb {verb!r}.\n{usage()}", file=sys.stderr)
        raise SystemExit(2)
    module = importlib.import_module(f"adn_jax.cli.{verb.replace('-', '_')}")
    run_verb(module.main, rest, is_continued(verb, rest))


def run_verb(
    verb_main: Callable[[Sequence[str]], None],
    rest: Sequence[str],
    continues: bool = True,
) -> None:
    """Call a verb's main; a `UserError` becomes one sentence and exit code 2.

    `continues`: whether the same command goes on where it was stopped.
    """
    try:
        with keep_interrupts():
            verb_main(rest)
    except UserError as error:
        print(f"adn: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        if is_out_of_memory(error):
            print(f"adn: {memory_sentence(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        if not is_refusal(error):
            raise
        print(
            f"adn: an object store refused ({one_line(error)}); check its address, "
            "your rights there and the network, then run the command again.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        then = "continues" if continues else "begins anew"
        print(f"adn: stopped; the same command {then}.", file=sys.stderr)
        number = stop.args[0] if stop.args else signal.SIGINT
        raise SystemExit(128 + number) from None


def _reader_has_gone() -> bool:
    """Whether nobody reads the output any more, as after `| head`; what is left of it
    is dropped then."""
    output = sys.stdout.fileno()
    pipe = select.poll()
    pipe.register(output, 0)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return gone
