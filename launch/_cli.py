"""What the scripts beside this file share: flags and flag files, errors of one line, help that fits a page."""

from __future__ import annotations

import dataclasses
import difflib
import gc
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging

from mrlato_jax.errors import InputError, shorten

LAUNCH = Path(__file__).resolve().parent
BAD_INPUT = 2  # exit status
MOST_FILES, MOST_NESTED, MOST_BYTES = 100, 20, 100_000  # of flag files: read, within each other, long
MOST_LETTERS = 100  # of what is quoted in an error

_FLAGFILE_HELP = (
    "Reads flags from FILE, one --name=value a line; # or // at the start of a line makes it a comment. FILE without "
    "a folder is looked for in the working directory, then beside the scripts. Of flags given twice the last wins."
)


@dataclasses.dataclass(frozen=True)
class Argument:
    """One word of the command line or one line of a flag file."""

    text: str
    where: str = ""  # "file:line: ", or nothing for the command line


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs a script: parses its flags, calls `main` with the program's name alone in a list, and exits.

    Bad input, be it a flag or an InputError out of `main`, is one line on standard error and exit status 2; a file
    that the system will not read or write is one line and status 1; an insistent Ctrl-C is status 130.
    """
    # Tracing makes millions of objects that live on: looking through them for cycles took two fifths of it.
    gc.set_threshold(200_000, 50, 100)

    def parse_or_exit(argv: Sequence[str]) -> list[str]:
        if {"--help", "-help", "-h", "-?", "--helpshort"}.intersection(argv):
            print(help_text(sys.modules["__main__"].__doc__ or "", argv[0]))
            sys.exit(0)
        try:
            return parse(argv)
        except InputError as error:
            sys.exit(_report(error))

    def guarded(argv: list[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)  # JAX's remarks on backends it did not find are no news to a user
        try:
            return main(argv)
        except InputError as error:
            return _report(error)
        except OSError as error:
            _report(error)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    app.run(guarded, flags_parser=parse_or_exit)


def parse(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Sets the flags that `argv` and its flag files give; absl parses them.

    Args:
        argv: the program's name, then flags: `--name=value`, `--name value`, `--[no]name`, `--flagfile=FILE`.
        flag_values: where the flags are declared.

    Returns:
        The program's name in a list: nothing but flags is accepted.

    Raises:
        InputError: an unknown flag, a value that the flag does not take, anything that is no flag, or as `expand`.
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
    """Puts the lines of each flag file in the place of the argument that names it.

    Raises:
        InputError: a flag file that is missing, is no text, is too large or includes itself, a line that is no flag,
            too many files, or too many within each other.
    """
    return _Reader().expand(arguments, ())


class _Reader:
    """Reads the flag files of one command line."""

    def __init__(self) -> None:
        self._files = 0

    def expand(self, arguments: Sequence[Argument], within: tuple[Path, ...]) -> list[Argument]:
        """As the function; `within`: the flag files that are being read, outermost first."""
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
                    f"{named} is one flag file too many; accepted: at most {MOST_FILES}, at most {MOST_NESTED} of them "
                    "within each other"
                )
            expanded += self.expand(_read(path), (*within, path))
        return expanded


def help_text(doc: str, program: str, flag_values: flags.FlagValues = flags.FLAGS) -> str:
    """The script's own words, then the flags that it and the files beside it declare, in their order."""
    lines = [doc.strip(), "", "flags:"]
    for flag in _own_flags(program, flag_values):
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}=<{_accepted(flag)}>"
        default = (flag.default_as_str or "").strip("'")
        lines += [f"  {name}" + (f"  (default: {default})" if default else ""), *_wrap(_help(flag))]
    lines += ["  --flagfile=<FILE>", *_wrap(_FLAGFILE_HELP)]
    return "\n".join(lines)


def _report(error: InputError | OSError) -> int:
    text = str(error)  # may quote the name of a file
    print(f"error: {_plain(text, len(text))}", file=sys.stderr)
    return BAD_INPUT


def _one_word_each(arguments: Sequence[Argument], flag_values: flags.FlagValues) -> list[Argument]:
    """Values that are words of their own joined to their flags, so that what absl refuses is one argument.

    Raises:
        InputError: an argument that is no flag, or a flag without the value that it needs.
    """
    joined = []
    rest = list(arguments)
    while rest:
        argument, *rest = rest
        if not argument.text.startswith("-"):
            raise InputError(f"{argument.where}argument is {shorten(argument.text)}; accepted: --name=value flags only")
        if not argument.text.strip("-"):  # absl looks at nothing behind it
            raise InputError(f"{argument.where}unknown flag --; --help lists what is accepted")
        name, equals, value = _parts(argument)
        flag = flag_values[name] if name in flag_values else None  # noqa: SIM401 (get gives the value)
        if flag is not None and not flag.boolean and not equals:
            if argument.where or not rest or rest[0].where:
                raise InputError(f"{argument.where}--{name} has no value; accepted: {_accepted(flag)}")
            equals, value, rest = "=", rest[0].text, rest[1:]
            argument = Argument(f"--{name}={value}")
        if flag is not None and equals and not value:  # as from a shell variable that is not set
            raise InputError(f"{argument.where}--{name} is empty; accepted: {_accepted(flag)}")
        joined.append(argument)
    return joined


def _refusal(error: Exception, arguments: Sequence[Argument], flag_values: flags.FlagValues) -> str:
    """What absl says of one of the arguments, as we say it."""
    for argument in arguments:
        name, _, value = _parts(argument)
        if str(error).startswith(f"flag --{name}={value}: "):
            return f"{argument.where}--{name} is {shorten(value)}; accepted: {_accepted(flag_values[name])}"
        if str(error).startswith(argument.text):
            return f"{argument.where}--{name} is {shorten(value)}; accepted: no value"
    return _plain(str(error))


def _guess(argument: Argument, flag_values: flags.FlagValues) -> str:
    """What a flag that there is not may have meant."""
    name = _parts(argument)[0]
    close = difflib.get_close_matches(name[:MOST_LETTERS], [*flag_values, "flagfile", "help"], n=1)
    hint = f"did you mean --{close[0]}?" if close else "--help lists what is accepted"
    return f"{argument.where}unknown flag --{_plain(name)}; {hint}"


def _parts(argument: Argument) -> tuple[str, str, str]:
    """Name, equals sign and value, as absl reads them."""
    return argument.text.removeprefix("-").removeprefix("-").partition("=")


def _plain(text: str, most: int = MOST_LETTERS) -> str:
    """Text from outside as a terminal may be shown it: short, and what cannot be printed as Python writes it."""
    cut = text if len(text) <= most else f"{text[: most - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)


def _accepted(flag: flags.Flag) -> str:
    if isinstance(flag.parser, flags.EnumParser):
        return ", ".join(flag.parser.enum_values)
    return "true, false" if flag.boolean else flag.parser.syntactic_help or "text"


def _help(flag: flags.Flag) -> str:
    """Without the choices that absl puts before the text of a flag that has some: they are shown as its value."""
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
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, no such user, a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{named} cannot be looked for ({_plain(reason or '')}); accepted: a file's name") from None
    raise InputError(f"{named} not found; sought: {', '.join(_plain(str(path), MOST_BYTES) for path in candidates)}")


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
        raise InputError(f"flag file {name} is longer than {MOST_BYTES} bytes; accepted: at most so many")
    arguments = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line, where = raw.strip(), f"{name}:{number}: "
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("-"):
            raise InputError(f"{where}line is {shorten(line)}; accepted: --name=value, or a comment that # begins")
        # Without a shell, all that follows = is the value: a remark or a second flag behind it would go unseen.
        if any(word.startswith(("#", "//", "--")) for word in line.split()[1:]) or " " in line.partition("=")[0]:
            raise InputError(f"{where}line is {shorten(line)}; accepted: one --name=value and nothing behind it")
        arguments.append(Argument(line, where))
    return arguments


def _own_flags(program: str, flag_values: flags.FlagValues) -> list[flags.Flag]:
    """Those of the script (absl knows it by the program's name) and of its neighbours, not absl's nor a library's."""
    ours = {name for name, module in sys.modules.items() if _is_beside_us(getattr(module, "__file__", None))}
    by_module = flag_values.flags_by_module_dict()
    return [flag for name, found in by_module.items() if name == program or name in ours for flag in found]


def _is_beside_us(file: str | None) -> bool:
    return file is not None and Path(file).parent.resolve() == LAUNCH


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, width=100, initial_indent=" " * 6, subsequent_indent=" " * 6)
