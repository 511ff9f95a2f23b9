"""The ``zoprune`` command. A subcommand is a module listed in ``COMMANDS`` that has:

- ``SUMMARY``: one line for ``zoprune --help``; its docstring is the text of its own ``--help``;
- ``add_arguments(parser)``;
- ``run(args) -> int``: the exit status; raises ``UsageError`` for input that cannot work.

The modules import what is slow or optional inside ``run``, so that ``--help`` always works.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from .. import __version__
from . import demo, info, inspect, serve_demo
from .errors import UsageError

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "serve-demo": serve_demo,
    "inspect": inspect,
    "info": info,
}
CLOSED_PIPE = 128 + 13  # what a shell reports for a process that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``zoprune`` with these arguments.

    0 is success, 2 bad input, 130 an interruption, 141 a reader that went away (``| head``).
    """
    args = _parser().parse_args(argv)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"zoprune {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nzoprune {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # What is left in the buffer would raise once more when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoprune", description="Keep the visual tokens that matter, drop the rest."
    )
    parser.add_argument("--version", action="version", version=f"zoprune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
