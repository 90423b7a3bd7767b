"""The command line: ``glint COMMAND ...``.

A command is a module with ``add_arguments(parser)`` and ``main(arguments) -> int``; it is imported
when it is asked for, so that help is instant and no command pays for another one's libraries.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from glint import __version__
from glint.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNEXPECTED,
    EXIT_USAGE,
    GlintError,
    InputError,
    MissingDependencyError,
    OutputError,
    UsageError,
    did_you_mean,
    exit_code_of,
    hint_of,
    redact,
)
from glint.progress import speaking
from glint.progress import talk as talk

if TYPE_CHECKING:
    from glint.types import FrameSize

COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("glint.runtime.commands.doctor", "say what works on this machine, what does not, and how to mend it"),
    "run": ("glint.runtime.commands.run_command", "detect and unmix the targets of a stream of frames"),
    "review": ("glint.runtime.commands.review", "look at a finished run in the browser, frame by frame"),
    "archive": ("glint.runtime.commands.archive_command", "make data sets of all recordings below a folder or URL"),
    "detect": ("glint.runtime.commands.detect_command", "write a target mask for every image of a folder"),
    "unmix": ("glint.runtime.commands.unmix", "take patches apart into targets"),
    "psf": ("glint.runtime.commands.psf_command", "measure the width of the PSF from isolated targets"),
    "simulate": ("glint.simulate_command", "write simulated patches or frames with their truth"),
    "train": ("glint.training.train", "train a network"),
    "evaluate": ("glint.benchmarks.evaluate.command", "score a model on labelled data"),
    "parity": ("glint.benchmarks.parity.command", "prove that an engine still is the model that it was made from"),
    "bench": (
        "glint.benchmarks.bench.command",
        "measure speed, accuracy and limits on this machine; compare two reports",
    ),
    "inspect": ("glint.export.inspect.inspect", "say what a model, engine or network is and what TensorRT makes of it"),
    "build": ("glint.runtime.commands.build", "make an engine for this machine's GPU from a model"),
    "card": ("glint.runtime.commands.card", "write the model card of a network of your own"),
    "export": ("glint.export.command", "turn a checkpoint into an ONNX file with its model card"),
    "calibrate": ("glint.calibration.command", "make an fp16 or int8 model that scores like its fp32 one"),
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in two lines, like every other error, with the nearest word that would be right."""

    commands: Any = None

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help tells more")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Say which words of the command line mean nothing."""
        near = did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
        raise UsageError(f"{self.prog} knows no {' '.join(unknown)}", hint=f"{near}{self.prog} --help tells more")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        what = "/".join(action.option_strings) or action.metavar or action.dest
        expected = "" if action is self.commands else f": expected one of {', '.join(known)}"
        hint = f"{did_you_mean(str(value), known)}{self.prog} --help tells more"
        raise UsageError(f"{what} {value!r} is not known{expected}", hint=hint)


class Completion(argparse.Action):
    """Prints what a shell needs to complete the words of a command line, and leaves."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> NoReturn:
        import shtab

        whole = build_parser(everything=True)
        for sub in whole.commands.choices.values():
            for action in sub._actions:
                if action.type is Path:
                    action.complete = shtab.DIRECTORY if action.metavar == "FOLDER" else shtab.FILE
        print(shtab.complete(whole, values))
        raise SystemExit(EXIT_OK)


def build_parser(command: str | None = None, *, everything: bool = False) -> Parser:
    """The parser; the arguments of ``command`` are filled in, or those of all with ``everything``."""
    parser = Parser(
        prog="glint",
        description="Detect small infrared targets and take merged ones apart.",
        epilog="glint COMMAND --help tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"glint {__version__}")
    for words in (("--debug",), ("-q", "--quiet")):  # main looks for them anywhere
        parser.add_argument(*words, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--print-completion", choices=("bash", "zsh", "tcsh"), action=Completion,
        help="print what this shell completes commands with (needs shtab)",
    )  # fmt: skip
    parser.commands = commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
        if everything or name == command:
            importlib.import_module(module).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((w for w in words if w in COMMANDS), None)

    def call() -> int:
        if not words:
            build_parser().print_help(sys.stderr)
            return EXIT_USAGE
        parser = build_parser(command)
        arguments, unknown = parser.parse_known_args(words)
        if unknown:
            parser.commands.choices[arguments.command].refuse(unknown)
        module = importlib.import_module(COMMANDS[arguments.command][0])
        return int(module.main(arguments) or EXIT_OK)

    return _guarded(call, debug="--debug" in words, quiet="-q" in words or "--quiet" in words)


def options_of(function: Callable[..., Any], arguments: argparse.Namespace, **others: Any) -> dict[str, Any]:
    """The arguments that a function or a data class takes, by their names; ``others`` stand in for what differs."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in {**vars(arguments), **others}.items() if name in names}


def standalone(
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    command: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a module of the ``python -m`` kind as a command: same errors, hints and exit codes."""
    parser = Parser(description=description)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_arguments(parser)
    return _guarded(lambda: command(parser.parse_args(argv)), debug="--debug" in (sys.argv if argv is None else argv))


def _guarded(call: Callable[[], int], *, debug: bool, quiet: bool = False) -> int:
    # SIGTERM, and a terminal that is closed, end a command like Ctrl-C; only the main thread may say so.
    in_main_thread = threading.current_thread() is threading.main_thread()
    _fill_streams()
    ending = [s for s in (signal.SIGTERM, signal.SIGHUP) if in_main_thread and signal.getsignal(s) != signal.SIG_IGN]
    previous = {number: signal.signal(number, _terminate) for number in ending}
    try:
        with nullcontext() if quiet else speaking():
            code = call()
        _flush_output()
        return code
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (glint ... | head): that is its right.
        _drop_output()
        return EXIT_OK
    except GlintError as error:
        return _report(error, debug=debug)
    except Exception as error:
        told = _missing(error) or _of_output(error)
        return _report_unexpected(error, debug=debug) if told is None else _report(told, debug=debug)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _terminate(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _fill_streams() -> None:
    """Where a standard stream is closed, nothing takes its place: the next file that is opened would get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            if number == 2:
                sys.stderr = os.fdopen(number, "w", closefd=False)  # libraries write to it unasked


def _flush_output() -> None:
    """What was printed has arrived.

    Raises:
        OutputError: if not.
        BrokenPipeError: if its reader has gone.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise OutputError(f"cannot write standard output: {error.strerror}") from error


def _drop_output() -> None:
    """What is still to be printed goes nowhere: the end of the process would complain of it once more."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_output(error: Exception) -> OutputError | None:
    """What is told of a full disk that nobody has foreseen: it is no mistake of glint."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    _drop_output()
    told = OutputError(f"cannot write {error.filename or 'standard output'}: {error.strerror}")
    told.__cause__ = error
    return told


def _missing(error: Exception) -> MissingDependencyError | None:
    """What is told of a module that is not there, if glint asks for its library."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    from glint.libraries import library_of

    library = library_of(error.name or "")
    return None if library is None else MissingDependencyError(f"{error.name} is not installed", hint=library.fix)


def _report(error: GlintError, *, debug: bool) -> int:
    if debug:
        _say("".join(traceback.format_exception(error)).rstrip())
    _say(f"error: {error}")
    _say(f"hint: {hint_of(error)}")
    return exit_code_of(error)


def _report_unexpected(error: Exception, *, debug: bool) -> int:
    """The last resort: an error that nobody foresaw is told like the others, and by an exit code of its own."""
    if debug:
        _say("".join(traceback.format_exception(error)).rstrip())
    _say(f"error: unexpected {type(error).__name__}: {error}")
    _say("hint: this is a mistake of glint, not yours; --debug shows where it happened: please report it")
    return EXIT_UNEXPECTED


def _say(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # the terminal may be gone
            print(redact(text), file=sys.stderr)  # whatever a message quotes, a password is none of it


def print_result(result: Any, text_of: Callable[[Any], str], *, as_json: bool) -> None:
    """A result on standard output, as JSON or as text for people; raises as :func:`print_json`."""
    if as_json:
        print_json(result)
    else:
        print(text_of(result))


def print_json(value: Any) -> None:
    """One JSON document on standard output.

    Raises:
        OutputError: if there is no standard output.
    """
    if sys.stdout is None:
        raise OutputError(
            "there is no standard output: it was closed", hint="give the output a file, or leave standard output open"
        )
    print(json.dumps(value, indent=2, allow_nan=False))


def words(text: str) -> list[str]:
    """Argument type: words between commas."""
    return [word for word in text.split(",") if word]


def positive_int(text: str) -> int:
    """Argument type: a whole number >= 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def positive_float(text: str) -> float:
    """Argument type: a finite number > 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def frame_size(text: str) -> FrameSize:
    """Argument type: ``WIDTHxHEIGHT``, pixels."""
    from glint.types import FrameSize  # with NumPy, which help does not need

    try:
        return FrameSize.parse(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def seed(text: str) -> int:
    """Argument type: a whole number >= 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 0, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
