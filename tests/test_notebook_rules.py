"""How the library's notebooks read: title, one module each, short exported cells, each exported name shown or
checked."""
import ast
import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIRST = ROOT / "nbs" / "00_start.ipynb"     # a tour without a module: it may import from everywhere
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").glob("[0-9]*.ipynb") if p != FIRST)
EXPORT = re.compile(r"#\|\s*export(i|s)?\b")
MOST_LINES = 40


def cells(path, kind=None):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(c, "".join(c["source"])) for c in found if kind in (None, c["cell_type"])]


def exported(source): return bool(EXPORT.match(source))
def is_import(source): return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body)


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request): return request.param


def test_there_are_notebooks(): assert len(NOTEBOOKS) >= 60


def test_one_module_each(notebook):
    first = cells(notebook)[0][1].strip()
    module = re.fullmatch(r"#\| default_exp ((?:\w+\.)?\w+)", first)[1]
    assert re.fullmatch(r"\d\d\d?_(\w+)", notebook.stem)[1] == module.split(".")[-1]
    assert (ROOT / "deeplandscape" / f"{module.replace('.', '/')}.py").exists()
    others = [s for _, s in cells(notebook, "code") if re.match(r"#\|\s*export\w*[ \t]+\S", s)]
    assert not others, "an exported cell names another module"


def module_of(notebook): return cells(notebook)[0][1].split()[-1]
def code_of(source): return ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.M))
def number_of(notebook): return notebook.stem.partition("_")[0]
# compared as text: 90 < 901 < 91
NUMBERS = {module_of(notebook): number_of(notebook) for notebook in NOTEBOOKS}


def imported(tree):
    "The modules of this package that some code imports, anywhere in it."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else: continue
        yield from (name.removeprefix("deeplandscape.") for name in names
                    if name.removeprefix("deeplandscape.") in NUMBERS)


def test_numbers_are_two_digits_or_three_and_stand_once():
    assert all(re.match(r"\d\d\d?_[a-z]", notebook.stem) for notebook in NOTEBOOKS)
    assert len(set(NUMBERS.values())) == len(NUMBERS) == len(NOTEBOOKS)


def test_imports_only_from_lower_numbers(notebook):
    own = number_of(notebook)
    for _, source in cells(notebook, "code"):
        above = {f"{NUMBERS[name]} {name}" for name in imported(code_of(source)) if NUMBERS[name] >= own}
        assert not above, f"{notebook.stem} imports {', '.join(sorted(above))}"


def defined(tree):
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): yield node.name
        targets = (node.targets if isinstance(node, ast.Assign) else [node.target]
                   if isinstance(node, ast.AnnAssign) else [])
        for target in targets:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name)
                        and isinstance(n.ctx, ast.Store))


def test_no_public_name_in_two_modules():
    homes = {}
    for notebook in NOTEBOOKS:
        for _, source in cells(notebook, "code"):
            if exported(source):
                for name in defined(ast.parse(source)): homes.setdefault(name, []).append(module_of(notebook))
    twice = {name: found for name, found in homes.items() if len(found) > 1 and not name.startswith("_")}
    assert not twice, twice


def test_the_tour_exports_nothing_and_uses_what_a_newcomer_needs():
    sources = [source for _, source in cells(FIRST, "code")]
    assert not [source for source in sources if source.startswith("#|")]
    names = {alias.name for source in sources for node in ast.walk(code_of(source))
             if isinstance(node, ast.ImportFrom) and node.module == "deeplandscape" for alias in node.names}
    assert names == {"animate", "load_generator"}


READ = [FIRST, *NOTEBOOKS]


@pytest.mark.parametrize("notebook", READ, ids=lambda p: p.stem)
def test_title_and_one_sentence(notebook):
    lines = [line for line in cells(notebook, "markdown")[0][1].splitlines() if line.strip()]
    assert lines[0].startswith("# ") and lines[1].startswith("> ")
    assert not (len(lines) > 2 and lines[2].startswith("> ")), "the subtitle is one line"


def for_types(node):
    "`if TYPE_CHECKING: import ...`"
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_imports_stand_alone(notebook):
    for _, source in cells(notebook, "code"):
        if not exported(source): continue
        body = ast.parse(source).body
        kinds = {isinstance(node, (ast.Import, ast.ImportFrom)) or for_types(node) for node in body}
        assert len(kinds) <= 1, f"imports and code in one exported cell:\n{source[:200]}"
        for node in body:
            if isinstance(node, ast.ImportFrom): assert [a.name for a in node.names] != ["*"], "star import"


def test_exported_cells_are_short(notebook):
    for _, source in cells(notebook, "code"):
        if exported(source):
            lines = [line for line in source.splitlines()[1:] if line.strip()]
            assert len(lines) <= MOST_LINES, f"{len(lines)} lines: {lines[0]}"
            assert not re.search(r"^\s*%", source, flags=re.M), "a magic in an exported cell"


def test_ruff():
    "110 columns, and every name is defined."
    done = subprocess.run([sys.executable, "-m", "ruff", "check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_directive_is_the_first_line(notebook):
    for _, source in cells(notebook, "code"):
        assert not re.search(r"\n#\|\s*export", source), f"exported silently not: {source[:80]}"


def test_exported_names_are_shown_or_checked(notebook):
    """Each exported name occurs in a cell that shows or checks, itself or as a part of something exported
    that does."""
    parts, public, used = {}, set(), ""
    for _, source in cells(notebook, "code"):
        if exported(source):
            for node in ast.parse(source).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    parts[node.name] = ast.unparse(node)
                    if not source.startswith("#| exporti"): public.add(node.name)
        else: used += source + "\n"
    # as the command line spells it
    spellings = lambda name: {name, name.replace("_", "-"), name.removesuffix("_command").replace("_", "-")}
    mentions = lambda name, text: re.search(rf"\b({'|'.join(spellings(name))})\b", text)
    reached = {name for name in parts if mentions(name, used)}
    while grown := {name for name in parts if name not in reached
                    and any(mentions(name, parts[other]) for other in reached)}:
        reached |= grown
    hidden = sorted(name for name in public - reached if not name.startswith("_"))
    assert not hidden, f"neither shown nor checked: {', '.join(hidden)}"


def test_public_names_have_a_docstring(notebook):
    for _, source in cells(notebook, "code"):
        if EXPORT.match(source) and not source.startswith(("#| exporti", "#|exporti")):
            for node in ast.parse(source).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("notebook", READ, ids=lambda p: p.stem)
def test_outputs_are_there(notebook):
    with_output = [c for c, _ in cells(notebook, "code") if c["outputs"]]
    assert len(with_output) >= 3, "run the notebook and keep its outputs"
    errors = [o for c in with_output for o in c["outputs"] if o["output_type"] == "error"]
    assert not errors
    assert notebook.stat().st_size < 700_000, "outputs are small"


def test_never_more_than_two_exports_in_a_row(notebook):
    "After two exported cells at the latest comes one that shows or checks."
    row = 0
    for _, source in cells(notebook, "code"):
        if exported(source) and not is_import(source): row += 1
        elif not exported(source): row = 0
        assert row <= 2, f"nothing shown or checked before:\n{source[:120]}"


@pytest.mark.parametrize("notebook", READ, ids=lambda p: p.stem)
def test_errors_are_expected_and_not_only_printed(notebook):
    "`try: ...; except E: print(...)` passes when nothing is raised; `pytest.raises` does not."
    for _, source in cells(notebook, "code"):
        if exported(source): continue
        for node in ast.walk(code_of(source)):
            swallowed = isinstance(node, ast.Try) and node.handlers and not (node.orelse or node.finalbody)
            assert not swallowed, f"use pytest.raises:\n{ast.unparse(node)}"


@pytest.mark.parametrize("notebook", READ, ids=lambda p: p.stem)
def test_nothing_unfinished(notebook):
    for _, source in cells(notebook):
        assert not re.search(r"\b(TODO|FIXME|NotImplementedError)\b", source)


# Special methods that are part of how a class is used; of the others, the language fixes the types.
WITH_TYPES = {"__init__", "__call__", "__getitem__", "__iter__", "__len__"}


def untyped(tree):
    "Parameters and returns of public functions, and of public methods of public classes, that have no type."
    for node in tree.body:
        functions = [("", node)] if isinstance(node, ast.FunctionDef) else []
        if isinstance(node, ast.ClassDef):
            functions = [(f"{node.name}.", f) for f in node.body if isinstance(f, ast.FunctionDef)]
        if getattr(node, "name", "_").startswith("_"): continue
        for owner, function in functions:
            if function.name.startswith("_") and not (owner and function.name in WITH_TYPES): continue
            bound = bool(owner) and not any(ast.unparse(d) == "staticmethod" for d in function.decorator_list)
            given = function.args
            named = [*given.posonlyargs, *given.args][bound:] + given.kwonlyargs
            for argument in [*named, *filter(None, (given.vararg, given.kwarg))]:
                if argument.annotation is None: yield f"{owner}{function.name}({argument.arg})"
            if function.returns is None and function.name != "__init__": yield f"{owner}{function.name} ->"


# Explorers and claims are typed where they are worked on; a name leaves this list, none joins it.
NOT_YET_TYPED = set()


def test_untyped_finds_what_has_no_type():
    "The rule itself, on a function, a method, a return and what it leaves alone."
    code = "def f(a, b: int) -> int: ...\nclass C:\n    def g(self, *x): ...\n    def _h(self, y): ...\n"
    code += "def _k(z): ...\nclass _D:\n    def m(self, u): ...\n"
    assert list(untyped(ast.parse(code))) == ["f(a)", "C.g(x)", "C.g ->"]


def test_public_functions_are_typed(notebook):
    "What `py.typed` promises: a type for each parameter and for each return."
    if notebook.stem in NOT_YET_TYPED: pytest.skip("listed in NOT_YET_TYPED")
    missing = [name for _, source in cells(notebook, "code")
               if EXPORT.match(source) and not source.startswith(("#| exporti", "#|exporti"))
               for name in untyped(ast.parse(source))]
    assert not missing, ", ".join(missing)


@pytest.mark.parametrize("name", ["00_start", "apps/inversion", "apps/motion", "apps/photo", "apps/scene"])
def test_colab_installs_from_the_repository_of_the_settings(name):
    "The first code cell of what links to Colab; with a shell that is not Colab's it does nothing."
    cell = cells(ROOT / "nbs" / f"{name}.ipynb", "code")[0][1]
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    user, repo = (settings["DEFAULT"][key] for key in ("user", "repo"))

    class Shell:
        def __init__(self, name): self.name, self.calls = name, []
        def __str__(self): return f"<{self.name} object at 0x7f>"
        def run_line_magic(self, *words): self.calls.append(words)
    for shell, calls in (("google.colab._shell.Shell", 1), ("ipykernel.zmqshell.ZMQInteractiveShell", 0)):
        found = Shell(shell)
        exec(cell, {"get_ipython": lambda: found})
        assert len(found.calls) == calls
        assert all(words[0] == "pip" and f"git+https://github.com/{user}/{repo}" in words[1]
                   for words in found.calls)


# Who is kept out of training is decided by the names of photographs, and a folder's own name is part of them.
READERS = {"find_photos", "photo_source", "prepare_store", "square_photos"}


def is_temporary(node):
    return isinstance(node, ast.Call) and any(isinstance(n, (ast.Attribute, ast.Name))
                                              and (n.attr if isinstance(n, ast.Attribute) else n.id)
                                              in ("mkdtemp", "TemporaryDirectory") for n in ast.walk(node))


def temporary_names(tree):
    "Variables that hold a folder with a random name."
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and is_temporary(node.value):
            yield from map(ast.unparse, node.targets)
        if isinstance(node, ast.withitem) and is_temporary(node.context_expr) and node.optional_vars:
            yield ast.unparse(node.optional_vars)


def read_as_photos(call):
    "What a call takes its photographs from."
    name = ast.unparse(call.func).split(".")[-1]
    if name not in READERS: return []
    given = [k.value for k in call.keywords if k.arg == "photos"]
    if name != "prepare_store": given += call.args[:1]
    return [ast.unparse(item) for value in given
            for item in (value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value])]


def random_photo_folders(sources):
    trees = [code_of(source) for source in sources]
    random = {name + end for tree in trees for name in temporary_names(tree) for end in ("", ".name")}
    random |= {f"{wrap}({name})" for name in random for wrap in ("Path", "str")}
    return [ast.unparse(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)
            and set(read_as_photos(node)) & random]


def test_photographs_lie_in_folders_of_fixed_names(notebook):
    assert not random_photo_folders(s for _, s in cells(notebook, "code") if not exported(s))


def test_random_folders_are_found():
    made = "place = tempfile.TemporaryDirectory()"
    assert random_photo_folders([made, "square_photos([place.name], 64)"])
    assert random_photo_folders(["with tempfile.TemporaryDirectory() as d:\n    photo_source(d, 128)"])
    assert random_photo_folders(["d = Path(tempfile.mkdtemp())\nprepare_store(d / 's', photos=[d])"])
    assert not random_photo_folders([made, "prepare_store(place.name, photos=[Path(place.name) / 'photos'])"])
