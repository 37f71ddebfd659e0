"Outputs of notebooks match their code: what compares them, and a notebook of the library."
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from rerun import ROOT, WALL_CLOCK, rerun, texts


def notebook_of(folder, *cells):
    "A notebook of (source, stored text, tags)."
    made = [new_code_cell(source, outputs=[new_output("stream", name="stdout", text=text)],
                          metadata={"tags": list(tags)}) for source, text, tags in cells]
    nbformat.write(new_notebook(cells=made), folder / "some.ipynb")
    return folder / "some.ipynb"


def test_a_text_that_changed_is_found_and_time_is_not(tmp_path):
    path = notebook_of(tmp_path, ("print(1 + 1)", "2\n", ()), ("print(1 + 2)", "4\n", ()),
                       ("import time; print(time.time())", "0.5\n", (WALL_CLOCK,)))
    changed = rerun(path)
    assert list(changed) == [1] and "-4" in changed[1] and "+3" in changed[1]


def test_addresses_and_temporary_folders_are_no_difference():
    cell = lambda text: new_code_cell("", outputs=[new_output("stream", name="stdout", text=text)])
    assert texts(cell("<object at 0x7f01ab>")) == texts(cell("<object at 0x7fffff>"))
    assert texts(cell("wrote /tmp/tmpab12/x")) == texts(cell("wrote /tmp/tmpzz99/x"))
    assert texts(cell("loss 0.25")) != texts(cell("loss 0.26"))


@pytest.mark.parametrize("name", ["06_parameters", "904_intervals"])
def test_notebooks_of_the_library_print_what_they_hold(name):
    assert rerun(ROOT / "nbs" / f"{name}.ipynb") == {}
