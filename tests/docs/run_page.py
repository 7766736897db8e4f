"""Runs one page of documentation, top to bottom, as its reader would: `python run_page.py PAGE`, in an empty folder.

* ```python blocks run in one namespace, with top-level await. Tracebacks name the page and its line.
* A fence with title="name" of any language is that file: it is written, not run; under <!-- added --> at the end of what is there.
* ```console blocks are commands after `$ `, given to one bash, each followed by what it shows (`…` stands for anything;
  other lines may come in between). Every one of them says what is to be done with it, in a comment above it:
      <!-- run -->                once; it has to succeed and to show this
      <!-- run until shown -->    again and again, until it succeeds and shows this: for what takes a moment
      <!-- skip: why -->          not at all; works for every fence
* A ```text fence under <!-- printed --> is what the Python block before it printed.

Nothing else may look like code that runs: a page with an unmarked or unknown fence is refused.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import re
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

UNTIL_S = 30.0
SHOWN_ONLY = {"text", "json", "toml", "yaml", "sql", "mermaid", ""}
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w+-]*)(?P<options>.*)$")
TITLE = re.compile(r'title="(?P<title>[^"]+)"')
MARK = re.compile(r"^\s*<!-- (?P<mark>run until shown|run|printed|added|skip: .+?) -->\s*$")


class Block(NamedTuple):
    line: int  # of its first line of content, from 1
    language: str
    title: str | None
    mark: str
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


class PageRefused(Exception):
    pass


def blocks(page: str) -> Iterator[Block]:
    mark, numbered = "", enumerate(page.splitlines(), start=1)
    for number, line in numbered:
        if opened := FENCE.match(line):
            indent = len(opened["indent"])
            lines = []
            for _, inside in numbered:
                if inside.strip() == "```":
                    break
                lines.append(inside[indent:])
            else:
                raise PageRefused(f"line {number}: this fence is never closed")
            title = TITLE.search(opened["options"])
            yield Block(number + 1, opened["language"], title["title"] if title else None, mark, lines)
            mark = ""
        elif found := MARK.match(line):
            mark = found["mark"]
        elif line.strip():
            mark = ""


def commands(block: Block) -> Iterator[tuple[int, str, list[str]]]:
    """(line, command, what it shows) of a console block. A command goes on after a backslash, or a line with `> `."""
    command, shown, at = "", [], block.line
    for number, line in enumerate(block.lines, start=block.line):
        if line.startswith("$ "):
            if command:
                yield at, command, shown
            command, shown, at = line[2:], [], number
        elif not command:
            raise PageRefused(f"line {number}: a console block begins with `$ ` and a command")
        elif command.endswith("\\") and not shown:
            command += "\n" + line
        elif line.startswith("> ") and not shown:
            command += "\n" + line[2:]
        elif line.strip():
            shown.append(line.strip())
    if command:
        yield at, command, shown


def shows(output: str, shown: list[str]) -> bool:
    """Whether these lines are in the output, in this order."""
    remaining = iter(" ".join(line.split()) for line in output.splitlines())
    patterns = [".*".join(re.escape(part) for part in " ".join(line.split()).split("…")) for line in shown]
    return all(any(re.fullmatch(pattern, line) for line in remaining) for pattern in patterns)


class Shell:
    """One bash for the whole page, so that `&`, `%1` and `export` mean what they mean to the reader."""

    DONE = "--- done with"

    def __init__(self) -> None:
        self.bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    def run(self, command: str) -> tuple[int, str]:
        assert self.bash.stdin is not None
        assert self.bash.stdout is not None
        self.bash.stdin.write(f"{command}\nprintf '\\n%s %d\\n' '{self.DONE}' $?\n")
        lines = []
        for line in self.bash.stdout:
            if line.startswith(self.DONE):
                return int(line.split()[-1]), "".join(lines)
            lines.append(line)
        raise AssertionError(f"bash ended at: {command}\n{''.join(lines)}")

    def close(self) -> None:
        for job in self.run("jobs -p")[1].split():
            self.run(f"kill -9 {job}; wait {job} 2>/dev/null")
        self.bash.communicate("exit\n")


class Page:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.module = types.ModuleType("page")
        sys.modules["page"] = self.module  # annotations of events are looked up here
        self.printed = ""
        self.shell: Shell | None = None
        self.loop = asyncio.Runner()

    def run(self) -> int:
        ran = 0
        for block in blocks(self.path.read_text(encoding="utf-8")):
            if not block.mark.startswith("skip: "):
                print(f"{self.path}:{block.line}: {block.title or block.language}", file=sys.stderr)
                self.carry_out(block)
                ran += 1
        return ran

    def carry_out(self, block: Block) -> None:
        if block.title:
            target = Path(block.title)
            target.parent.mkdir(parents=True, exist_ok=True)
            before = target.read_text(encoding="utf-8") + "\n\n" if block.mark == "added" else ""
            target.write_text(before + block.text, encoding="utf-8")
        elif block.language == "python":
            self.python(block)
        elif block.language == "console":
            self.console(block)
        elif block.mark == "printed":
            assert self.printed.split() == block.text.split(), f"line {block.line}: it printed\n{self.printed}"
        elif block.language not in SHOWN_ONLY:
            raise PageRefused(
                f"line {block.line}: a fence of `{block.language}` is neither run nor skipped, with a reason"
            )

    def python(self, block: Block) -> None:
        tree = compile(block.text, str(self.path), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        code = compile(
            ast.increment_lineno(tree, block.line - 1), str(self.path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if code.co_flags & inspect.CO_COROUTINE:
                self.loop.run(self.awaited(code))
            else:
                exec(code, self.module.__dict__)
        self.printed = printed.getvalue()

    async def awaited(self, code: types.CodeType) -> None:
        await eval(code, self.module.__dict__)

    def console(self, block: Block) -> None:
        if block.mark not in ("run", "run until shown"):
            raise PageRefused(
                f"line {block.line}: say above it <!-- run -->, <!-- run until shown --> or <!-- skip: why -->"
            )
        self.shell = self.shell or Shell()
        for line, command, shown in commands(block):
            deadline = time.monotonic() + (UNTIL_S if block.mark == "run until shown" else 0)
            while True:
                status, output = self.shell.run(command)
                if status == 0 and shows(output, shown):
                    break
                if time.monotonic() > deadline:
                    wanted = "\n".join(shown)
                    raise AssertionError(
                        f"line {line}: $ {command}\nended with {status} and showed\n{output}\nnot\n{wanted}"
                    )
                time.sleep(0.1)

    def close(self) -> None:
        if self.shell:
            self.shell.close()
        self.loop.close()


def main() -> None:
    page = Page(Path(sys.argv[1]).resolve())
    sys.path.insert(0, "")
    try:
        ran = page.run()
    except BaseException:
        for log in Path().glob("*.log"):
            print(f"--- {log}\n{log.read_text(errors='replace')[-4000:]}", file=sys.stderr)
        raise
    finally:
        page.close()
    print(f"ran {ran}")


if __name__ == "__main__":
    main()
