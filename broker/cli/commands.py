"""The one style of help and of usage errors that all commands have.

A command's docstring is its help: a first sentence, what it prints, and last `Examples:` with a line for each.
"""

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from broker.cli.terminal import Exit, err, note_json, say_error
from schemas.api import Problem

F = TypeVar("F", bound=Callable[..., Any])
_EXAMPLES = "\nExamples:\n"


class Command(TyperCommand):
    """A command whose examples come last in its help, as they stand."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        _write_usage(self, ctx, formatter)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as it is called
        _write_text(self.help, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_parameters(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        _write_examples(self.help, formatter)


class Group(TyperGroup):
    """Commands under one name."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        _write_usage(self, ctx, formatter)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        _write_text(self.help, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_parameters(self, ctx, formatter)
        rows = [(name, _first_sentence(one.help or "")) for name, one in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        _write_examples(self.help, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(Exit.USAGE)
        return super().parse_args(ctx, args)

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        """Run a command. Say in our own style what is wrong with its arguments. Raises: SystemExit."""
        words = sys.argv[1:] if args is None else list(args)
        as_json = note_json("--json" in words)
        try:
            code = super().main(words, *more, **{**settings, "standalone_mode": False})
        except typer.Abort:
            err.print("\nstopped: nothing was asked for")
            code = Exit.INTERRUPTED
        except TyperException as error:
            code = _report(error, as_json=as_json)
        sys.exit(code or Exit.DONE)


def _report(error: TyperException, *, as_json: bool) -> int:
    """Print what is wrong with a command's arguments, and how it is used. Return the exit code."""
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    message = _words(error.format_message(), param)
    field = max(param.opts, key=len) if param is not None else None
    say_error(message, Problem("bad_input", message, field), as_json=as_json)
    if context is not None and not as_json:
        err.print(context.get_usage(), markup=False)
        err.print(f"Help:  {context.command_path} --help", markup=False)
    return error.exit_code


def _words(message: str, param: Any) -> str:
    """Say in our words what the parser says in its own."""
    if param is not None and "should be a valid UUID" in message:
        where = _LISTED.get(param.name, "")
        return f"{_name(param)} is not an id, such as 0199aa7e-6c3f-7d21-8f4b-5c1e9a0d2b34{where}"
    for before, after in _SAID.items():
        message = message.replace(before, after)
    if param is not None:
        message = re.sub(rf"'{param.name}'|'{max(param.opts, key=len)}'( \(env var: '\w+'\))?", _name(param), message)
    if extra := re.fullmatch(r"Got unexpected extra argument\(?s?\)? \((.*)\)", message):
        message = f"too many arguments: {extra[1]}"
    return message.removesuffix(".")


_LISTED = {
    "batch": ": `infermq batch list` shows the batches",
    "job": ": `infermq job list` shows the jobs",
    "jobs": ": `infermq job list` shows the jobs",
    "letter": ": `infermq dead list --each` shows the dead letters",
    "letters": ": `infermq dead list --each` shows the dead letters",
    "instruction": ": `infermq instruction list` shows the instructions",
}
"""Where the ids of an argument are to be found."""
_SAID = {
    "Input should be greater than or equal to": "it must be at least",
    "Input should be less than or equal to": "it must be at most",
    ", unable to parse string as a number": "",
    ", unable to parse string as an integer": "",
    "Input should be a valid integer": "it must be a whole number",
    "Input should be a valid number": "it must be a number",
    "Input should be": "it must be",
    "Invalid value for ": "",
    "No such option: ": "there is no option ",
    "No such command ": "there is no command ",
    "Value error, ": "",
    "Missing argument ": "missing argument ",
    "Missing option ": "missing option ",
    "Option ": "option ",
}
"""Words of the parser, and ours."""


class Commands(typer.Typer):
    """A group of commands in our style."""

    def __init__(self, help: str | None = None, **settings: Any) -> None:  # noqa: A002 - typer's own word
        told = {} if help is None else {"help": help}
        super().__init__(cls=Group, **{"no_args_is_help": True, **told, **settings})

    def command(self, name: str | None = None, **settings: Any) -> Callable[[F], F]:
        return super().command(name, cls=Command, **settings)


def _write_usage(command: Any, ctx: Any, formatter: Any) -> None:
    options = " [OPTIONS]" if any(one.param_type_name == "option" for one in command.get_params(ctx)) else ""
    arguments = [_argument(one) for one in command.params if one.param_type_name == "argument"]
    more = [" COMMAND"] if isinstance(command, TyperGroup) else []
    formatter.write_usage(ctx.command_path, "".join([options, *(f" {name}" for name in arguments), *more]).strip())


def _argument(param: Any) -> str:
    name = _name(param) + ("..." if param.nargs != 1 else "")
    return name if param.required else f"[{name}]"


def _name(param: Any) -> str:
    if param.param_type_name == "option":
        return str(max(param.opts, key=len))
    return str(param.metavar or param.name.upper()).removesuffix("...")


def _write_text(text: str | None, formatter: Any) -> None:
    told = inspect.cleandoc(text or "").partition(_EXAMPLES)[0]
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(told)


def _write_examples(text: str | None, formatter: Any) -> None:
    if examples := examples_of(text):
        with formatter.section("Examples"):
            formatter.write("".join(f"  {example}\n" for example in examples))


def examples_of(text: str | None) -> list[str]:
    """Return the lines of examples at the end of a docstring."""
    lines = inspect.cleandoc(text or "").partition(_EXAMPLES)[2].splitlines()
    return [line.strip() for line in lines if line.strip()]


def _first_sentence(text: str) -> str:
    paragraph = " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0]


def _write_parameters(command: Any, ctx: Any, formatter: Any) -> None:
    records = [(one, one.get_help_record(ctx)) for one in command.get_params(ctx)]
    arguments = [
        (_name(one), record[1]) for one, record in records if one.param_type_name == "argument" and record is not None
    ]
    options = [
        (_readable(record[0]), record[1])
        for one, record in records
        if one.param_type_name == "option" and record is not None
    ]
    for title, rows in (("Arguments", arguments), ("Options", options)):
        if rows:
            with formatter.section(title):
                formatter.write_dl([(name, told.replace("  [", " [")) for name, told in rows])


_TYPES = {"str": "TEXT", "path": "FILE", "UUID": "ID", "int": "NUMBER", "float": "NUMBER"}


def _readable(record: str) -> str:
    """Write the type of an option's value as a word, or as what may be chosen."""

    def word(found: re.Match[str]) -> str:
        kind = found[1].removeprefix("list[").removesuffix("]").removesuffix(" range")
        return _TYPES.get(kind, kind)

    return re.sub(r"<(.*)>", word, record)
