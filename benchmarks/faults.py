"""Does tinycnn keep its promises when things go wrong? Campaigns of faults, counted.

    python -m benchmarks.faults                                      every campaign: some minutes
    python -m benchmarks.faults --only flips,headers --count 1000
    python -m benchmarks.faults --only headers --skip 50000 --count 50000 --output benchmarks/results/NAME.json

Campaigns (--only):
  images     corrupt and odd image files, one by one with limits, and as one folder (TINYCNN_TEST_IMAGES names them)
  flips      model files and checkpoints cut at every byte, with every bit changed, with a byte too many
  headers    model files and checkpoints with made-up headers and right hashes (100,000 unless --count says)
  arguments  the commands with made-up arguments and folders (2,000 unless --count says)
  saves      saves in which one call to the system fails, or before which the process dies, call by call
  kills      trainings killed without warning at random moments (1,000 unless --count says), an eighth resumed
  bits       the same epoch on 1 and 2 threads, alone and beside busy processes (20 times each unless --count says)

Each case has a number and is the same in every run. A table says what must never happen, how often it could have, and
how often it did: anything but 0 is a defect. The exit code is 1 if there was one.
"""

import argparse
import sys
import time
from collections.abc import Callable

from . import fault_arguments, fault_bits, fault_flips, fault_headers, fault_images, fault_kills, fault_saves
from .common import at_least, listed, output_file, say, write_results
from .findings import Finding, Part, SkippedError, tell

CAMPAIGNS: dict[str, Callable[[Part], list[Finding]]] = {
    campaign.NAME: campaign.run
    for campaign in (fault_images, fault_flips, fault_headers, fault_arguments, fault_saves, fault_kills, fault_bits)
}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", type=listed(str, [*CAMPAIGNS]), default=[*CAMPAIGNS], metavar="CAMPAIGN,...",
                   help=", ".join(CAMPAIGNS))  # fmt: skip
    p.add_argument("--count", type=at_least(1), metavar="N", help="how many cases (default: all there are)")
    p.add_argument("--skip", type=at_least(0), default=0, metavar="N", help="leave out so many of the first cases")
    p.add_argument("--output", type=output_file, metavar="FILE.json", help="keep what was found")
    return p


def main() -> int:
    """Run the campaigns; returns the exit code."""
    options = parser().parse_args()
    findings: list[Finding] = []
    for name in options.only:
        say(f"{name} ...")
        began = time.perf_counter()
        try:
            found = CAMPAIGNS[name](Part(options.skip, options.count))
        except SkippedError as error:
            say(f"{name}: skipped: {error}")
            continue
        except KeyboardInterrupt:
            say("interrupted")
            return 130
        say(f"{name}: {time.perf_counter() - began:.0f} s")
        findings += found
        if options.output:
            settings = {"only": options.only, "count": options.count, "skip": options.skip}
            write_results(options.output, settings, [finding.to_json() for finding in findings])
    if findings:
        print(tell(findings))
    return 1 if any(finding.broken for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
