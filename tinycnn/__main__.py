"""`tinycnn train`, `tinycnn predict`, ...: every command under one name."""

import importlib
import sys
from collections.abc import Sequence

from . import __version__

COMMANDS = {
    "train": "train the network on a folder of photos, or on drawn fish",
    "predict": "say what photos show",
    "evaluate": "measure a model on labelled photos",
    "explain": "show how a network decides about one photo, every number of it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else "--help"
    if command in COMMANDS:
        return importlib.import_module(f".{command}", __package__).main(arguments[1:])
    if command in ("-h", "--help"):
        print("usage: tinycnn COMMAND [...]\n\ncommands (each has --help):")
        print("\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items()))
        return 0
    if command == "--version":
        print(f"tinycnn {__version__}")
        return 0
    print(f"tinycnn: {command!r} is no command; use one of {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
