"""ARCHITECTURE.md draws the layers that import-linter holds the code to, and names every module."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text()


def test_the_picture_is_the_contract() -> None:
    (picture,) = re.findall(r"^```\n(service\.cli .*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert [_names(re.split(" {2,}", line)[0], " │ ") for line in picture.splitlines()] == _layers()


def test_every_module_has_a_layer() -> None:
    assert _modules(ROOT / "service") <= set().union(*_layers())


def test_every_module_of_the_api_is_told_of() -> None:
    assert _modules(ROOT / "service" / "api") <= set(re.findall(r"`(\w+)\.py`", TEXT))


def _layers() -> list[set[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [_names(layer, " | ") for layer in contracts[0]["layers"]]


def _names(layer: str, separator: str) -> set[str]:
    return {name.removeprefix("service.") for name in layer.split(separator)}


def _modules(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}
