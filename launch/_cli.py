"""What the scripts beside this file share: flags and flag files, errors of one line, help that fits a page."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging

from mrlato_jax.errors import InputError, shorten

LAUNCH = Path(__file__).resolve().parent
BAD_INPUT = 2  # exit status

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
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    app.run(guarded, flags_parser=parse_or_exit)


def parse(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Sets the flags that `argv` and its flag files give.

    Args:
        argv: the program's name, then flags: `--name=value`, `--name value`, `--[no]name`, `--flagfile=FILE`.
        flag_values: where the flags are declared.

    Returns:
        The program's name in a list: nothing but flags is accepted.

    Raises:
        InputError: an unknown flag, a value that the flag does not take, anything that is no flag, a flag file that
            is missing, includes itself or has a line that is no flag.
    """
    program, *words = argv
    arguments = expand([Argument(word) for word in words])
    settings = []
    while arguments:
        argument, *arguments = arguments
        if not argument.text.startswith("-"):
            raise InputError(f"{argument.where}argument is {argument.text!r}; accepted: --name=value flags only")
        name, equals, value = argument.text.lstrip("-").partition("=")
        flag, name, negated = _find(name, argument, flag_values)
        if negated or (flag.boolean and not equals):
            if equals:
                raise InputError(f"{argument.where}--no{name} is {value!r}; accepted: no value")
            value = "false" if negated else "true"
        elif not equals:
            if argument.where or not arguments or arguments[0].where:
                raise InputError(f"{argument.where}--{name} has no value; accepted: {_accepted(flag)}")
            value, arguments = arguments[0].text, arguments[1:]
        if not value:  # as from a shell variable that is not set
            raise InputError(f"{argument.where}--{name} is empty; accepted: {_accepted(flag)}")
        try:
            flag.parser.parse(value)
        except (ValueError, TypeError):
            raise InputError(f"{argument.where}--{name} is {value!r}; accepted: {_accepted(flag)}") from None
        settings.append(f"--{name}={value}")
    try:
        return flag_values([program, *settings])
    except flags.Error as error:  # a validator: required flags, and rules across flags
        raise InputError(" ".join(str(error).split())) from None


def expand(arguments: Sequence[Argument], within: tuple[Path, ...] = ()) -> list[Argument]:
    """Puts the lines of each flag file in the place of the argument that names it.

    Args:
        arguments: words of the command line, or lines of the last file of `within`.
        within: the flag files being read, outermost first.
    """
    expanded: list[Argument] = []
    rest = list(arguments)
    while rest:
        argument, *rest = rest
        name, equals, file = argument.text.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            expanded.append(argument)
            continue
        if not equals and rest and not argument.where:
            file, rest = rest[0].text, rest[1:]
        if not file:
            raise InputError(f"{argument.where}--flagfile has no value; accepted: the name of a flag file")
        path = _find_file(file, argument, within)
        if path in within:
            chain = " -> ".join(included.name for included in (*within[within.index(path) :], path))
            raise InputError(f"{argument.where}--flagfile={file} includes itself: {chain}")
        expanded += expand(_read(path), (*within, path))
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


def _report(error: InputError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT


def _find(name: str, argument: Argument, flag_values: flags.FlagValues) -> tuple[flags.Flag, str, bool]:
    """The flag called `name`, its plain name, and whether it was called `no<name>`."""
    if name in flag_values:
        return flag_values[name], name, False
    plain = name.removeprefix("no")
    if plain != name and plain in flag_values and flag_values[plain].boolean:
        return flag_values[plain], plain, True
    close = difflib.get_close_matches(name, [*flag_values, "flagfile", "help"], n=1)
    hint = f"did you mean --{close[0]}?" if close else "--help lists what is accepted"
    raise InputError(f"{argument.where}unknown flag --{name}; {hint}")


def _accepted(flag: flags.Flag) -> str:
    if isinstance(flag.parser, flags.EnumParser):
        return ", ".join(flag.parser.enum_values)
    return "true, false" if flag.boolean else flag.parser.syntactic_help or "text"


def _help(flag: flags.Flag) -> str:
    """Without the choices that absl puts before the text of a flag that has some: they are shown as its value."""
    choices = flag.parser.enum_values if isinstance(flag.parser, flags.EnumParser) else []
    return flag.help.removeprefix(f"<{'|'.join(choices)}>: ")


def _find_file(file: str, argument: Argument, within: tuple[Path, ...]) -> Path:
    folders = [path.parent for path in within[-1:]] + [Path.cwd()]
    if not os.path.dirname(file):
        folders.append(LAUNCH)
    candidates = list(dict.fromkeys((folder / Path(file).expanduser()).resolve() for folder in folders))
    for path in candidates:
        if path.is_file():
            return path
    sought = ", ".join(map(str, candidates))
    raise InputError(f"{argument.where}--flagfile={file} not found; sought: {sought}")


def _read(path: Path) -> list[Argument]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"flag file {path} cannot be read ({error}); accepted: UTF-8 text") from None
    arguments = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line, where = raw.strip(), f"{path}:{number}: "
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
