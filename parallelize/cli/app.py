"""The application that commands are registered with, and how their errors end.

Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, 3 the machine lacks something, 4 a bug.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, ParamSpec

import typer
from typer.core import TyperGroup

from parallelize import __version__
from parallelize.cli.output import aloud_if, notes_shown, stdout_alone
from parallelize.cli.ranks import refuse_alone
from parallelize.machine.launch import is_silent
from passes.errors import ParallelizeError

P = ParamSpec("P")
BUG = 4


class Settings:
    """Options that hold for every command."""

    debug = False


class _Commands(TyperGroup):
    """The commands; --debug is accepted behind each of them as well."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        Settings.debug = "--debug" in args
        return super().parse_args(ctx, [argument for argument in args if argument != "--debug"])


app = typer.Typer(
    cls=_Commands,
    name="parallelize",
    help="Turn the depth of neural networks into width, with the cost in accuracy measured.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _fail(error: Exception, hint: str, code: int) -> NoReturn:
    if Settings.debug:
        traceback.print_exception(error)
    with aloud_if(getattr(error, "is_for_all", False)):
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        typer.secho(f"hint:  {hint}", err=True)
    raise typer.Exit(code)


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """One sentence and one hint for what the user can mend; exit code 4 for what is a bug."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from paraformer.errors import ParaFormerError

        try:
            with stdout_alone(), notes_shown():
                command(*args, **kwargs)
        except (ParallelizeError, ParaFormerError) as error:
            _fail(error, error.hint, error.exit_code)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:  # noqa: BLE001  (the one place where a bug is reported)
            text = f"{type(error).__name__}: {error}"
            _fail(
                error if Settings.debug else RuntimeError(text),
                "This is a bug in parallelize; run again with --debug and report what it prints.",
                BUG,
            )

    return wrapped


def register(*commands: Callable[..., None]) -> None:
    """Offer commands, each by the name of its function, in the order of the help."""
    for command in commands:
        app.command()(reports_errors(command))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"parallelize {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del debug, version  # one was seen to before, the callback of the other has ended the run where it is set
    try:
        refuse_alone(context.invoked_subcommand, os.environ)
    except ParallelizeError as error:
        if is_silent():
            raise typer.Exit from None  # rank 0 tells, and ends in an error
        _fail(error, error.hint, error.exit_code)
