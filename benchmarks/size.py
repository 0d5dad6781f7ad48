"""How much disk each library takes with all that it needs, as installed packages list their files."""

import importlib.metadata
import tomllib
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from .common import ROOT
from .peers import peer_class
from .results import US, Row


def measure(peers: Sequence[str]) -> list[Row]:
    """One row for each library of the peers; its `figures` hold bytes, and how many packages that is."""
    rows: dict[tuple[str, ...], Row] = {}
    for peer in peers:
        names = peer_class(peer).distributions
        if names not in rows:
            rows[names] = row = Row(peer.split("-")[0])
            try:
                needed = our_dependencies() if row.peer == US else closure([first_installed(names)])
            except PackageNotFoundError as error:
                row.problem = f"{error.name} not installed"
                continue
            own = sum(file.stat().st_size for file in our_files()) if row.peer == US else 0
            row.figures = {"bytes": own + sum(map(size, needed.values())), "packages": len(needed) + (row.peer == US)}
    return list(rows.values())


def our_files() -> list[Path]:
    """The files of tinycnn itself, as this checkout has them."""
    return [
        file
        for folder in ("tinycnn", "kernels")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in {".py", ".cu"}
    ]


def our_dependencies() -> dict[str, Distribution]:
    """What tinycnn needs, by the checkout's pyproject.toml: it need not be installed."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return closure(Requirement(text).name for text in project["dependencies"])


def first_installed(names: Sequence[str]) -> str:
    """The first of these names that is installed. Raises PackageNotFoundError."""
    for name in names:
        try:
            return importlib.metadata.distribution(name).name
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(names[0])


def closure(names: Iterable[str]) -> dict[str, Distribution]:
    """These packages and all that they need, without extras, by normalised name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, Distribution] = {}
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        needs = map(Requirement, found[name].requires or ())
        left += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def size(package: Distribution) -> int:
    """The bytes of a package's files that exist, compiled ones as far as its list names them."""
    files = (Path(str(file.locate())) for file in package.files or ())
    return sum(file.stat().st_size for file in files if file.is_file())
