"""Library notebooks are run again and their text outputs compared: python tests/rerun.py [NOTEBOOK ...].
A cell whose text holds seconds, bytes or memory carries the tag `wall-clock` and is left out."""
import difflib
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
WALL_CLOCK = "wall-clock"
ADDRESS = re.compile(r" at 0x[0-9a-f]+")            # of an object without a text of its own
PLACE = re.compile(r"/tmp/\S*?tmp\w+|/tmp/tmp\w+")  # of a temporary folder


def texts(cell):
    "What a cell prints and returns as text; warnings, images and tables as HTML are left out."
    found = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream" and output["name"] == "stdout": found.append(output["text"])
        elif output["output_type"] == "execute_result": found.append(output["data"].get("text/plain", ""))
    return PLACE.sub("<folder>", ADDRESS.sub("", "".join(found))).strip()


def rerun(path):
    "The notebook executed anew in its folder; a diff for each cell whose text is another one now."
    stored = nbformat.read(path, 4)
    fresh = nbformat.read(path, 4)
    NotebookClient(fresh, timeout=1800, resources={"metadata": {"path": str(Path(path).parent)}}).execute()
    changed = {}
    for k, (before, after) in enumerate(zip(stored.cells, fresh.cells)):
        if before.cell_type != "code" or WALL_CLOCK in before.metadata.get("tags", []): continue
        old, new = texts(before), texts(after)
        if old != new:
            sides = old.splitlines(), new.splitlines()
            changed[k] = "\n".join(difflib.unified_diff(*sides, "stored", "now", lineterm="", n=0))
    return changed


def main(paths):
    "Print what differs; the number of notebooks in which something does."
    bad = 0
    for path in paths or sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        changed = rerun(path)
        bad += bool(changed)
        print(f"{Path(path).name}: {len(changed)} cells differ", flush=True)
        for k, lines in changed.items(): print(f"cell {k}\n{lines}", flush=True)
    return bad


if __name__ == "__main__": sys.exit(min(main(sys.argv[1:]), 1))
