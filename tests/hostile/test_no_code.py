"""Nothing that arrives is ever run: no module of ours unpickles, evaluates, or asks a shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import eventspine

ROOT = Path(eventspine.__file__).parent
MODULES = sorted(
    path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[:2] != ("testing", "servers")
)  # those run programs
IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "xml"}
OF_THE_DEVELOPER = {"events/declare.py": ["eval"]}  # annotations, as they are written in the class
CALLS = {"eval", "exec", "compile", "__import__"}


def what_runs_data(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in IMPORTS]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [node.module] if (node.module or "").partition(".")[0] in IMPORTS else []
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            shell = any(word.arg == "shell" for word in node.keywords)
            found += [f"line {node.lineno}: {ast.unparse(node.func)}"] if name in CALLS or shell else []
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_runs_what_it_was_sent(path: Path) -> None:
    found = [call.rpartition(" ")[2] for call in what_runs_data(path.read_text(encoding="utf-8"))]
    assert found == OF_THE_DEVELOPER.get(path.relative_to(ROOT).as_posix(), [])


@pytest.mark.parametrize("text", ["import pickle", "from yaml import load", "eval('1')", "run('ls', shell=True)"])
def test_it_would_be_seen(text: str) -> None:
    assert what_runs_data(text)
