"""How complicated the code is: writes complexity_report.json, prints what is worst.

For every function its cyclomatic complexity (radon), its length, its nesting and its
parameters; for every module its maintainability index (radon) and its length; and what
nothing seems to use (vulture). The limits are those of CONTRIBUTING.md; ruff enforces
the hard ones.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radon.complexity import cc_visit
from radon.metrics import mi_visit
from vulture import Vulture

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("experiment_hooks", "exporter")
LIMITS = {"complexity": 10, "lines": 60, "nesting": 4, "parameters": 8}
NESTS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try)

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One function or method; ``lines`` counts its body without the docstring."""

    name: str
    path: str
    line: int
    complexity: int
    lines: int
    nesting: int
    parameters: int

    @property
    def weight(self) -> float:
        """How near it is to its limits, the nearest counting most."""
        return max(getattr(self, name) / limit for name, limit in LIMITS.items())


@dataclass(frozen=True)
class Module:
    """One module; ``maintainability`` is 0 to 100, below 20 is hard to keep up."""

    path: str
    lines: int
    maintainability: float


def nesting(node: ast.AST, depth: int = 0) -> int:
    """How deep blocks stand in each other; an ``elif`` is no deeper than its ``if``."""
    deepest = depth
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        is_elif = field == "orelse" and isinstance(node, ast.If) and len(children) == 1
        for child in children:
            if isinstance(child, FunctionNode | ast.ClassDef | ast.Lambda):
                continue
            if isinstance(child, ast.AST):
                deeper = isinstance(child, NESTS)
                deeper = deeper and not (is_elif and isinstance(child, ast.If))
                deepest = max(deepest, nesting(child, depth + deeper))
    return deepest


def body_lines(node: FunctionNode) -> int:
    """Lines of the body, without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]


def parameters(node: FunctionNode) -> int:
    """Parameters of every kind, without ``self`` or ``cls``."""
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    own = [a for a in named if a.arg not in ("self", "cls")]
    return len(own) + bool(node.args.vararg) + bool(node.args.kwarg)


def functions_of(path: Path, source: str) -> list[Function]:
    """All functions of one module, methods and inner ones included."""
    blocks: list[Any] = []
    for block in cc_visit(source):
        blocks += [
            block,
            *getattr(block, "methods", []),
            *getattr(block, "closures", []),
        ]
    complexity = {block.lineno: block.complexity for block in blocks}
    found = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, FunctionNode | ast.ClassDef):
                name = f"{prefix}{child.name}."
            if isinstance(child, FunctionNode):
                found.append(
                    Function(
                        name=name[:-1],
                        path=str(path),
                        line=child.lineno,
                        complexity=complexity.get(child.lineno, 1),
                        lines=body_lines(child),
                        nesting=nesting(child),
                        parameters=parameters(child),
                    )
                )
            visit(child, name)

    visit(ast.parse(source), "")
    return found


def dead_code(paths: list[Path]) -> list[dict[str, Any]]:
    """What nothing in the two packages seems to use; public names are among it."""
    vulture = Vulture()
    vulture.scavenge([str(path) for path in paths])
    return [
        {
            "name": item.name,
            "type": item.typ,
            "path": str(Path(item.filename).relative_to(ROOT)),
            "line": item.first_lineno,
            "confidence": item.confidence,
        }
        for item in vulture.get_unused_code(min_confidence=80)
    ]


def report() -> dict[str, Any]:
    """All that is measured, worst first."""
    functions: list[Function] = []
    modules: list[Module] = []
    paths = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))
    for path in paths:
        source = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        functions += functions_of(where, source)
        index = round(mi_visit(source, multi=True), 1)
        modules.append(Module(str(where), source.count("\n"), index))
    functions.sort(key=lambda function: -function.weight)
    modules.sort(key=lambda module: module.maintainability)
    return {
        "limits": LIMITS,
        "beyond": sum(function.weight > 1 for function in functions),
        "functions": [asdict(function) for function in functions],
        "modules": [asdict(module) for module in modules],
        "unused": dead_code(paths),
    }


def main() -> int:
    """Write the report and print its heads."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", default=str(ROOT / "complexity_report.json"))
    output = Path(parser.parse_args().output)
    found = report()
    output.write_text(json.dumps(found, indent=1) + "\n")

    print(
        f"{'complexity':>10} {'lines':>6} {'nesting':>7} {'parameters':>10}  function"
    )
    for each in found["functions"][:10]:
        print(
            f"{each['complexity']:>10} {each['lines']:>6} {each['nesting']:>7}"
            f" {each['parameters']:>10}  {each['path']}:{each['line']} {each['name']}"
        )
    print(f"\n{'index':>10} {'lines':>6}  module")
    for each in found["modules"][:10]:
        print(f"{each['maintainability']:>10} {each['lines']:>6}  {each['path']}")
    print(
        f"\n{len(found['functions'])} functions in {len(found['modules'])} modules;"
        f" beyond a limit: {found['beyond']}; unused: {len(found['unused'])}"
        f"; all of it: {output}"
    )
    for each in found["unused"]:
        print(f"unused {each['type']} {each['name']}: {each['path']}:{each['line']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
