"""Notebooks: a real kernel, with its own running loop, runs the example and what people do to notebooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .serving import ROOT

NOTEBOOK = ROOT / "examples" / "notebook" / "orders.ipynb"

# In a process of its own: Jupyter's warnings are its own business.
EXECUTE = """
import json, sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
print(json.dumps([cell.get("outputs", []) for cell in notebook.cells if cell.cell_type == "code"]))
"""


def execute(notebook: Path, folder: Path) -> list[list[dict[str, Any]]]:
    """What each code cell has shown."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXECUTE, str(notebook)],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "IPYTHONDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    outputs: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return outputs


def written(tmp_path: Path, *cells: str) -> Path:
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook, path)
    return path


def results(outputs: list[list[dict[str, Any]]]) -> list[str]:
    return [one["data"]["text/plain"] for cell in outputs for one in cell if one["output_type"] == "execute_result"]


def test_the_example_notebook_runs_as_it_is(tmp_path: Path) -> None:
    outputs = execute(NOTEBOOK, tmp_path)
    assert results(outputs) == [
        "[(1, 'orders.OrderPlaced', 'teapot'), (2, 'orders.OrderPlaced', 'cup')]",
        "[('cup', 6), ('teapot', 2)]",
        "'ok'",
        "3",
        "[('cup', 1), ('saucer', 1), ('teapot', 1)]",
    ]
    assert [one for cell in outputs for one in cell if one.get("name") == "stderr"] == []


def test_the_example_is_kept_without_its_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


SETUP = """
from eventspine import Event, Service, Spine, correlate
class Placed(Event, context="orders", key="sku"):
    sku: str
SHOP = Service("shop", publishes="orders")
seen = []
mail = Service("mail")
@mail.on(Placed)
async def confirm(event: Placed) -> None:
    seen.append(event.sku)
spine = await Spine("sqlite:///again.db", service=SHOP).open()
"""
USE = """
import asyncio
async with spine.running(mail):
    await spine.publish(Placed(sku="cup"))
    async with asyncio.timeout(30):
        while not seen:
            await asyncio.sleep(0.01)
seen
"""


def test_cells_may_be_run_again(tmp_path: Path) -> None:
    """The class, the service and the spine are made anew, on the same file; the first spine was never closed."""
    assert (
        results(execute(written(tmp_path, SETUP, USE, SETUP, USE, "await spine.close()"), tmp_path)) == ["['cup']"] * 2
    )


def test_a_blocking_spine_runs_services_beside_the_running_loop(tmp_path: Path) -> None:
    cells = (
        SETUP.replace("import Event, Service, Spine", "import Event, Service")
        .replace("async def", "def")
        .replace("spine = await Spine", "from eventspine.sync import Spine\nspine = Spine"),
        """
import time
with spine.running(mail), correlate("notebook-1"):
    receipt = spine.publish(Placed(sku="cup"))
    end = time.monotonic() + 30
    while not seen and time.monotonic() < end:
        time.sleep(0.01)
spine.close()
seen, receipt.position
""",
    )
    assert results(execute(written(tmp_path, *cells), tmp_path)) == ["(['cup'], 1)"]
