"""What README.md and docs/ show really runs: each page in a process and a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE_S = 110


def run(page: Path, folder: Path) -> tuple[int, str]:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(folder),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "PYTHONPATH": "",
    }
    environment.pop("SPINE_JOURNAL", None)
    (folder / "here").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(HERE / "run_page.py"), str(page)],
        cwd=folder / "here",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own: whatever the page starts ends with it
    )
    try:
        output, _ = process.communicate(timeout=PAGE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nnot finished within {PAGE_S} s"
    return process.returncode, output


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_snippet_runs(page, tmp_path):
    status, output = run(page, tmp_path)
    assert status == 0, output


def test_what_is_added_to_a_file_leaves_what_is_there(tmp_path):
    page = write(
        tmp_path,
        """
'''python title="stock.py"
free = 3
'''
<!-- added -->
'''python title="stock.py"
sold = free - 1
'''
'''python
from stock import free, sold
assert (free, sold) == (3, 2)
'''
""",
    )
    status, output = run(page, tmp_path)
    assert status == 0, output


def write(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text.replace("'''", "```"))
    return page


def test_a_page_runs_in_order_with_its_files_its_awaits_and_its_processes(tmp_path):
    page = write(
        tmp_path,
        """
'''python title="shop/stock.py"
free = 3
'''

'''python
import asyncio
from shop.stock import free
await asyncio.sleep(0)
print("free:", free)
'''
<!-- printed -->
'''text
free: 3
'''
<!-- run -->
'''console
$ sleep 60 &
$ python -c 'import shop.stock as s; print("and", s.free, "more")'
and … more
$ kill -9 %1
'''
""",
    )
    assert run(page, tmp_path) == (
        0,
        f"{page}:3: shop/stock.py\n{page}:7: python\n{page}:14: text\n{page}:18: console\nran 4\n",
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("'''python\nassert 1 == 2\n'''", 'page.md", line 2, in <module>'),
        ("'''console\n$ true\n'''", "say above it <!-- run -->"),
        ("'''bash\ntrue\n'''", "a fence of `bash` is neither run nor skipped"),
        ("<!-- run -->\n'''console\n$ false\n'''", "line 3: $ false\nended with 1"),
        ("<!-- run -->\n'''console\n$ echo one\ntwo\n'''", "showed\none"),
        ("'''python\nprint(1)\n'''\n<!-- printed -->\n'''text\n2\n'''", "line 6: it printed\n1"),
        ("'''python\n", "this fence is never closed"),
    ],
)
def test_a_page_that_does_not_hold_fails_and_says_where(tmp_path, text, complaint):
    status, output = run(write(tmp_path, text), tmp_path)
    assert status == 1
    assert complaint in output


def test_a_skipped_snippet_has_a_reason(tmp_path):
    page = write(tmp_path, "<!-- skip: needs a browser -->\n'''python\n1 / 0\n'''\n")
    assert run(page, tmp_path) == (0, "ran 0\n")
    (tmp_path / "here").rmdir()
    page = write(tmp_path, "<!-- skip -->\n'''python\n1 / 0\n'''\n")
    assert run(page, tmp_path)[0] == 1
