"""ARCHITECTURE.md draws the layers that import-linter holds the code to, and names every package and module.
pyproject.toml declares what they import.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAX_LAYERS = 11


def test_the_picture_is_the_contract() -> None:
    (picture,) = re.findall(r"^```\n(service\.cli .*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert [_names(re.split(" {2,}", line)[0], " │ ") for line in picture.splitlines()] == _layers()


def test_there_are_few_layers() -> None:
    assert len(_layers()) <= MAX_LAYERS


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.name for path in (ROOT / "service").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "service").glob("*.py")} - {"__init__"}
    assert packages | modules <= set().union(*_layers())


def test_every_module_is_described() -> None:
    modules = {path.stem for path in (ROOT / "service").glob("**/*.py")} - {"__init__"}
    assert modules <= set(re.findall(r"`(\w+)`", TEXT))


def test_what_is_imported_is_declared() -> None:
    """A dependency of a dependency may be dropped by it."""
    project, packages = PYPROJECT["project"], PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    requirements = chain(project["dependencies"], *project["optional-dependencies"].values())
    declared = {re.split(r"[\[<>=;]", requirement)[0] for requirement in requirements}
    distributions = packages_distributions()
    imported = {name for package in packages for name in _imports(package)} - {*packages}
    found = {name: {_normalized(dist) for dist in distributions[name]} for name in imported & distributions.keys()}
    assert len(found) > len(project["dependencies"]) / 2
    assert not {name for name, names in found.items() if not names & declared}


def _imports(package: str) -> Iterator[str]:
    """The first names of what is imported anywhere in `package`."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import():
                    yield from (alias.name.partition(".")[0] for alias in node.names)
                case ast.ImportFrom(module=str(module), level=0):
                    yield module.partition(".")[0]


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _layers() -> list[set[str]]:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    return [_names(layer, " | ") for layer in contracts[0]["layers"]]


def _names(layer: str, separator: str) -> set[str]:
    return {name.removeprefix("service.") for name in layer.replace(" : ", separator).split(separator)}
