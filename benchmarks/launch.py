"""Runs a command and prints, as JSON, how long it took and how much memory it held at most.

    python -S launch.py SECONDS CORES COMMAND...      on these cores (0,1), at most SECONDS

A process of its own and a small one, because the kernel counts what a process held at its start as held by the
command it becomes. Prints {"code", "seconds", "bytes", "output", "errors"}, the last two being what it printed.
"""

import json
import os
import resource
import subprocess
import sys
import time


def main() -> None:
    """Run the command that the arguments give."""
    limit, cores, *command = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    began = time.perf_counter()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=float(limit))
        code, output, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        code, output, errors = 124, b"", f"no end within {limit} seconds".encode()
    seconds = time.perf_counter() - began
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    text = {"output": output.decode(errors="replace"), "errors": errors.decode(errors="replace")}
    print(json.dumps({"code": code, "seconds": seconds, "bytes": most, **text}))


if __name__ == "__main__":
    main()
