"""`python -m tests.mutate [links|keys|csv|orders] [--most 40] [--seed 1]`: change one thing, see a test fail.

Each mutant is one change to one module: a comparison, a boolean, a number, an operator, a condition, a raise. It runs
the module's tests in a copy of the repository. A mutant that survives them is a behaviour that no test holds.
"""

import argparse
import ast
import copy
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TARGETS = {
    "links": ("service/access/links.py", "tests/access/test_links.py"),
    "keys": ("service/access/api_keys.py", "tests/access/test_api_keys.py"),
    "csv": ("service/documents/csv_encoder.py", "tests/documents/test_encoders.py"),
    "orders": ("service/documents/unique_order.py", "tests/documents/test_plans.py"),
}
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", ".carryout*", "__pycache__", ".*_cache", ".hypothesis")
TIMEOUT_SECONDS = 300.0
OPPOSITES: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


class Mutant(NamedTuple):
    line: int
    was: str
    becomes: str
    source: str


def find_mutants(source: str) -> Iterator[Mutant]:
    tree = ast.parse(source)
    for index, node in enumerate(ast.walk(tree)):
        for variant in range(len(list(_changes(node)))):
            changed = copy.deepcopy(tree)
            target = list(ast.walk(changed))[index]
            was = ast.unparse(target)
            replacement = list(_changes(target))[variant]
            _replace(changed, target, replacement)
            ast.fix_missing_locations(changed)
            yield Mutant(getattr(node, "lineno", 0), was, ast.unparse(replacement), ast.unparse(changed))


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may replace it."""
    match node:
        case ast.Compare(ops=[operator, *_]) if type(operator) in OPPOSITES:
            yield _with(node, ops=[OPPOSITES[type(operator)](), *node.ops[1:]])
        case ast.BoolOp(op=operator):
            yield _with(node, op=OPPOSITES[type(operator)]())
        case ast.BinOp(op=operator) if type(operator) in OPPOSITES:
            yield _with(node, op=OPPOSITES[type(operator)]())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=bytes() as value):
            yield ast.Constant(value + b"x")
        case ast.If() | ast.IfExp():
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Raise():
            yield ast.Pass()


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _replace(tree: ast.AST, target: ast.AST, replacement: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, replacement)
                return
            if isinstance(value, list) and any(item is target for item in value):
                setattr(parent, name, [replacement if item is target else item for item in value])
                return


def survives(tree: Path, tests: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", tests]
    try:
        return (
            subprocess.run(command, cwd=tree, capture_output=True, check=False, timeout=TIMEOUT_SECONDS).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def mutate(name: str, most: int, seed: int) -> int:
    """The number of survivors."""
    module, tests = TARGETS[name]
    mutants = list(find_mutants((ROOT / module).read_text()))
    chosen = sorted(random.Random(seed).sample(mutants, min(most, len(mutants))))  # noqa: S311 (no secret)
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        if not survives(tree, tests):
            raise SystemExit(f"{tests} fails without any change")
        for mutant in chosen:
            (tree / module).write_text(mutant.source)
            if survives(tree, tests):
                survivors.append(mutant)
                sys.stdout.write(f"{module}:{mutant.line}: {mutant.was!r} may become {mutant.becomes!r}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{name}: {len(chosen)} of {len(mutants)} mutants tried, {len(survivors)} survived\n")
    return len(survivors)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.mutate", description="Change one thing at a time, see a test fail.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--most", type=int, default=40, help="mutants of each module, chosen by the seed")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    return sum(mutate(name, options.most, options.seed) for name in options.targets or TARGETS) and 1


if __name__ == "__main__":
    sys.exit(main())
