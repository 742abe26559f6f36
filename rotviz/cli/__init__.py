"""The command line: `python -m rotviz run | inspect | verdict | hurts | runs | show | compare | export | deploy | figure | report | models |
bench | app`.

One file a command, each with `add(subparsers)` and a handler that imports what it needs when it runs: `rotviz runs` does not wait for torch.
With --json one JSON object goes to standard output and nothing else; progress goes to standard error.

Exit status: 0 done, 2 bad input, 130 cancelled, 1 anything else that rotviz explains (no room, a rewrite that does not hold); one line says why.
"""

import argparse
import sys
from collections.abc import Sequence

from rotviz.cli import app, bench, compare, deploy, doctor, export, figure, hurts, inspect, models, report, run, runs, show, verdict
from rotviz.errors import BadInput, Cancelled, RotvizError

COMMANDS = (run, inspect, verdict, hurts, doctor, runs, show, compare, export, deploy, figure, report, models, bench, app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(prog="rotviz", description="A laboratory for low-bit language models.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(subparsers)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["run"]:
        run.add_recipe_keys(subparsers.choices["run"])
    options = parser.parse_args(arguments)
    try:
        return options.handler(options) or 0
    except Cancelled as error:
        return _refuse(error, 130)
    except KeyboardInterrupt:
        return _refuse("cancelled", 130)
    except BadInput as error:
        return _refuse(error, 2)
    except RotvizError as error:
        return _refuse(error, 1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) left; there is nobody to tell
        return 0


def _refuse(error: object, status: int) -> int:
    sys.stderr.write(f"rotviz: {error}\n")
    return status
