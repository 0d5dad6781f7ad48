"""Files and names from outside: opened only where they can be read to an end, shown only as printable text."""

import os
import stat
from typing import Union

from .errors import DataError

Name = Union[str, bytes, "os.PathLike[str]"]
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four: full width


def open_regular(path: Name, flags: int = os.O_RDONLY, most: int | None = None) -> int:
    """A descriptor of a file with content; fits `open(..., opener=open_regular)`. most: bytes that it may have.

    Raises DataError for what is empty, too large or no file, without waiting for the other end of a pipe; OSError.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        why = "not a regular file"
    elif not status.st_size:
        why = "the file is empty"
    elif most is not None and status.st_size > most:
        why = f"the file has {status.st_size} bytes; at most {most} are read"
    else:
        return descriptor
    os.close(descriptor)
    raise DataError(why)


def show(text: Name) -> str:
    """A name for a message: whatever would not print as one clean line is escaped (\\n, \\x1b, undecodable bytes)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fsdecode(text))


def csv_path(path: str) -> str:
    """A path for a CSV file, the same file by a name that no spreadsheet takes for a formula."""
    return os.path.join(os.curdir, path) if path.startswith(FORMULA_STARTS) else path


def csv_name(name: str) -> str:
    """A name for a CSV file; an apostrophe goes before one that a spreadsheet would take for a formula.

    And before one that begins with an apostrophe, so that taking one away always gives the name.
    """
    return f"'{name}" if name.startswith((*FORMULA_STARTS, "'")) else name
