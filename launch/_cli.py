"""Shared code of the scripts in this folder: flags and flag files, one-line errors, and compact help."""

from __future__ import annotations

import dataclasses
import difflib
import gc
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from mrlato_jax.drawing import png
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.files import write_atomically

LAUNCH = Path(__file__).resolve().parent
BAD_INPUT = 2  # exit status
MOST_FILES, MOST_NESTED, MOST_BYTES = 100, 20, 100_000  # limits of flag files: number, nesting, size of each
MOST_LETTERS = 100  # characters quoted in an error

_FLAGFILE_HELP = (
    "Reads flags from FILE, one --name=value per line. Lines that start with # or // are comments. A FILE without a "
    "folder is searched in the working directory, then beside the scripts. If a flag is repeated, the last one wins."
)


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of the command line or one line of a flag file."""

    text: str
    where: str = ""  # "file:line: ", or empty for the command line


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs a script: parses its flags, calls `main` with a list of only the program's name, and exits.

    Bad flags and any InputError of `main` give one line on standard error and exit status 2. A file that cannot be read
    or written gives one line and status 1. A second Ctrl-C gives status 130. If the reader of a pipe leaves, as `head`
    does, the script ends without a word, status 1.
    """
    # Tracing makes millions of lasting objects; with default thresholds, garbage collection took 2/5 of its time.
    gc.set_threshold(200_000, 50, 100)

    def parse_or_exit(argv: Sequence[str]) -> list[str]:
        if {"--help", "-help", "-h", "-?", "--helpshort"}.intersection(argv):
            try:
                print(help_text(sys.modules["__main__"].__doc__ or "", argv[0]), flush=True)
            except BrokenPipeError:
                sys.exit(_unread())
            sys.exit(0)
        try:
            return parse(argv)
        except InputError as error:
            sys.exit(_report(error))

    def guarded(argv: list[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)  # hides JAX's remarks on missing backends
        try:
            status = main(argv)
            print(end="", flush=True)  # reports what cannot be written
            return status
        except InputError as error:
            return _report(error)
        except BrokenPipeError:
            return _unread()
        except OSError as error:
            _report(error)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    app.run(guarded, flags_parser=parse_or_exit)


def parse(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Sets the flags given by `argv` and its flag files; absl parses them.

    Args:
        argv: the program's name, then flags: `--name=value`, `--name value`, `--[no]name`, `--flagfile=FILE`.
        flag_values: the declared flags.

    Returns:
        A list of only the program's name, since all other arguments must be flags.

    Raises:
        InputError: a flag is unknown, a value is not accepted, an argument is not a flag, or as in `expand`.
    """
    program, *words = argv
    arguments = _one_word_each(expand([Argument(word) for word in words]), flag_values)
    try:
        unknown = flag_values([program, *(argument.text for argument in arguments)], known_only=True)[1:]
    except flags.ValidationError as error:  # required flags, and rules across flags
        raise InputError(" ".join(str(error).split())) from None
    except (flags.Error, ValueError) as error:
        raise InputError(_refusal(error, arguments, flag_values)) from None
    if unknown:
        raise InputError(_guess(next(argument for argument in arguments if argument.text == unknown[0]), flag_values))
    return [program]


def expand(arguments: Sequence[Argument]) -> list[Argument]:
    """Replaces each argument that names a flag file by the lines of the file.

    Raises:
        InputError: a flag file is missing, is not text, is too large or includes itself; a line is not a flag; or there
            are too many files or levels of nesting.
    """
    return _Reader().expand(arguments, ())


class _Reader:
    """Reads the flag files of one command line."""

    def __init__(self) -> None:
        self._files = 0

    def expand(self, arguments: Sequence[Argument], within: tuple[Path, ...]) -> list[Argument]:
        """Implements `expand`; `within` has the flag files being read, outermost first."""
        expanded: list[Argument] = []
        rest = iter(arguments)
        for argument in rest:
            name, equals, file = argument.text.partition("=")
            if name not in ("--flagfile", "-flagfile"):
                expanded.append(argument)
                continue
            if not equals and not argument.where:
                file = next(rest, Argument("")).text
            if not file:
                raise InputError(f"{argument.where}--flagfile has no value; accepted: the name of a flag file")
            named = f"{argument.where}--flagfile={_plain(file)}"
            path = _find_file(file, named, within)
            if path in within:
                chain = " -> ".join(_plain(included.name) for included in (*within[within.index(path) :], path))
                raise InputError(f"{named} includes itself: {chain}")
            self._files += 1
            if len(within) == MOST_NESTED or self._files > MOST_FILES:
                raise InputError(
                    f"{named} is one flag file too many; accepted: at most {MOST_FILES}, nested in at most "
                    f"{MOST_NESTED} levels"
                )
            expanded += self.expand(_read(path), (*within, path))
        return expanded


def help_text(doc: str, program: str, flag_values: flags.FlagValues = flags.FLAGS) -> str:
    """Returns the script's docstring, then the flags that the script and its helper modules declare, in their order."""
    lines = [doc.strip(), "", "flags:"]
    for flag in _own_flags(program, flag_values):
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}=<{_accepted(flag)}>"
        default = (flag.default_as_str or "").strip("'")
        lines += [f"  {name}" + (f"  (default: {default})" if default else ""), *_wrap(_help(flag))]
    lines += ["  --flagfile=<FILE>", *_wrap(_FLAGFILE_HELP)]
    return "\n".join(lines)


def write_figure(path: Path, draw: Callable[[], Any]) -> None:
    """Writes the figure that `draw` returns as a PNG file; says so if matplotlib is not installed."""
    try:
        drawn = png(draw())
    except ImportError:
        print("no figure: matplotlib is not installed (pip install 'mrlato-jax[plots]')", flush=True)
        return
    write_atomically(path, drawn)


def file_name(method: str) -> str:
    """Returns a method's name as a part of a file's name."""
    return re.sub("[^a-z0-9]+", "-", method.lower()).strip("-")


def _report(error: InputError | OSError) -> int:
    text = str(error)  # may quote the name of a file
    print(f"error: {_plain(text, len(text))}", file=sys.stderr)
    return BAD_INPUT


def _unread() -> int:
    """Leaves standard output, which nobody reads any more, so that Python's last flush does not fail either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _one_word_each(arguments: Sequence[Argument], flag_values: flags.FlagValues) -> list[Argument]:
    """Joins values to their flags (`--name value` to `--name=value`), so that each error is about one argument.

    Raises:
        InputError: an argument is not a flag, or a flag lacks its value.
    """
    joined = []
    rest = list(arguments)
    while rest:
        argument, *rest = rest
        if not argument.text.startswith("-"):
            raise InputError(f"{argument.where}argument is {shorten(argument.text)}; accepted: --name=value flags only")
        if not argument.text.strip("-"):  # absl ignores all arguments after it
            raise InputError(f"{argument.where}unknown flag --; --help lists what is accepted")
        name, equals, value = _parts(argument)
        flag = flag_values[name] if name in flag_values else None  # noqa: SIM401 (get gives the value)
        if flag is not None and not flag.boolean and not equals:
            if argument.where or not rest or rest[0].where:
                raise InputError(f"{argument.where}--{name} has no value; accepted: {_accepted(flag)}")
            equals, value, rest = "=", rest[0].text, rest[1:]
            argument = Argument(f"--{name}={value}")
        if flag is not None and equals and not value:  # for example from an unset shell variable
            raise InputError(f"{argument.where}--{name} is empty; accepted: {_accepted(flag)}")
        joined.append(argument)
    return joined


def _refusal(error: Exception, arguments: Sequence[Argument], flag_values: flags.FlagValues) -> str:
    """Rewrites absl's error about an argument in this project's form."""
    for argument in arguments:
        name, _, value = _parts(argument)
        if str(error).startswith(f"flag --{name}={value}: "):
            return f"{argument.where}--{name} is {shorten(value)}; accepted: {_accepted(flag_values[name])}"
        if str(error).startswith(argument.text):
            return f"{argument.where}--{name} is {shorten(value)}; accepted: no value"
    return _plain(str(error))


def _guess(argument: Argument, flag_values: flags.FlagValues) -> str:
    """Returns an error text for an unknown flag, with the closest known flag."""
    name = _parts(argument)[0]
    close = difflib.get_close_matches(name[:MOST_LETTERS], [*flag_values, "flagfile", "help"], n=1)
    hint = f"did you mean --{close[0]}?" if close else "--help lists what is accepted"
    return f"{argument.where}unknown flag --{_plain(name)}; {hint}"


def _parts(argument: Argument) -> tuple[str, str, str]:
    """Splits an argument into name, equals sign and value, as absl does."""
    return argument.text.removeprefix("-").removeprefix("-").partition("=")


def _plain(text: str, most: int = MOST_LETTERS) -> str:
    """Makes text from outside safe for a terminal: truncates it and escapes unprintable characters."""
    cut = text if len(text) <= most else f"{text[: most - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)


def _accepted(flag: flags.Flag) -> str:
    if isinstance(flag.parser, flags.EnumParser):
        return ", ".join(flag.parser.enum_values)
    return "true, false" if flag.boolean else flag.parser.syntactic_help or "text"


def _help(flag: flags.Flag) -> str:
    """Returns a flag's help without the choices that absl puts first, since they are shown as its value."""
    choices = flag.parser.enum_values if isinstance(flag.parser, flags.EnumParser) else []
    return flag.help.removeprefix(f"<{'|'.join(choices)}>: ")


def _find_file(file: str, named: str, within: tuple[Path, ...]) -> Path:
    folders = [path.parent for path in within[-1:]] + [Path.cwd()]
    if not os.path.dirname(file):
        folders.append(LAUNCH)
    try:
        candidates = list(dict.fromkeys((folder / Path(file).expanduser()).resolve() for folder in folders))
        for path in candidates:
            if path.is_file():
                return path
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, an unknown user, a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{named} cannot be searched ({_plain(reason or '')}); accepted: a file's name") from None
    raise InputError(f"{named} not found; searched: {', '.join(_plain(str(path), MOST_BYTES) for path in candidates)}")


def _read(path: Path) -> list[Argument]:
    name = _plain(str(path), MOST_BYTES)
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"flag file {name} cannot be read ({reason}); accepted: UTF-8 text") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"flag file {name} is longer than {MOST_BYTES} bytes; accepted: at most this size")
    arguments = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line, where = raw.strip(), f"{name}:{number}: "
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("-"):
            raise InputError(f"{where}line is {shorten(line)}; accepted: --name=value, or a comment that starts with #")
        # Without a shell, everything after = is the value, so a trailing comment or second flag would be lost.
        if any(word.startswith(("#", "//", "--")) for word in line.split()[1:]) or " " in line.partition("=")[0]:
            raise InputError(f"{where}line is {shorten(line)}; accepted: one --name=value and nothing after it")
        arguments.append(Argument(line, where))
    return arguments


def _own_flags(program: str, flag_values: flags.FlagValues) -> list[flags.Flag]:
    """Returns the flags of the script (absl knows it by the program's name) and its helper modules, without others."""
    ours = {name for name, module in sys.modules.items() if _is_beside_us(getattr(module, "__file__", None))}
    by_module = flag_values.flags_by_module_dict()
    return [flag for name, found in by_module.items() if name == program or name in ours for flag in found]


def _is_beside_us(file: str | None) -> bool:
    return file is not None and Path(file).parent.resolve() == LAUNCH


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, width=100, initial_indent=" " * 6, subsequent_indent=" " * 6)
