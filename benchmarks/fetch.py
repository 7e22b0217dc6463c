"""Fetch the pretrained weights and the data that the accuracy benchmark runs on.

    python benchmarks/fetch.py              all sources
    python benchmarks/fetch.py NAME ...     some of them
    python benchmarks/fetch.py --list       what there is: licence, size, whether it is here

They go to benchmarks/.cache, which git ignores. Each is checked by its SHA-256 and appears there whole or not at all;
what is there is not fetched again. Fashion-MNIST comes with the Debian package dataset-fashion-mnist.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the packages are those of this checkout

from benchmarks.sources import CACHE, SOURCES, Source
from passes.errors import ParallelizeError


def main() -> int:
    """Fetch what is asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SOURCES)}; all without one")
    parser.add_argument("--list", action="store_true", help="list the sources and fetch nothing")
    options = parser.parse_args()
    if options.list:
        print("\n".join(map(line, SOURCES.values())))
        return 0
    try:
        for source in [named(name) for name in options.names or SOURCES]:
            fetch(source)
    except ParallelizeError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def line(source: Source) -> str:
    """One source for people."""
    state = "here" if source.is_fetched(CACHE) else "not here"
    return f"{source.name:13} {source.megabytes:3} MB, {state}: {source.what}. Licence: {source.licence}."


def named(name: str) -> Source:
    """The source of a name.

    Raises:
        ParallelizeError: there is none.
    """
    if name not in SOURCES:
        raise ParallelizeError(f"There is no source {name!r}.", f"Name some of {', '.join(SOURCES)}.")
    return SOURCES[name]


def fetch(source: Source) -> None:
    """Fetch one source and say so."""
    if source.is_fetched(CACHE):
        print(f"{source.name} is here.")
        return
    print(f"Fetching {source.name}, {source.megabytes} MB ...", flush=True)
    note = source.fetch(CACHE)
    if note:
        print(note)


if __name__ == "__main__":
    sys.exit(main())
