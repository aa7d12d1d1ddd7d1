"""ARCHITECTURE.md draws the layers that import-linter holds the code to, and names every package and module."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
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


def _layers() -> list[set[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [_names(layer, " | ") for layer in contracts[0]["layers"]]


def _names(layer: str, separator: str) -> set[str]:
    return {name.removeprefix("service.") for name in layer.replace(" : ", separator).split(separator)}
