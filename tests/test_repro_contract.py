"""The reproduction's notebooks, profiles and graph hold together."""
import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from papermill import inspect_notebook

from deeplandscape.report import results
from deeplandscape.report.claims import source_of
from deeplandscape.core import InputError
from deeplandscape.parameters import parameters_of
from deeplandscape.report.profiles import profile_plan, read_profile
from deeplandscape.report.results import fingerprint, is_current, save_result
from deeplandscape.report.reproduce import import_closure, reproduce
from deeplandscape.report.figures import published

ROOT = Path(__file__).resolve().parents[1]
REPRO = ROOT / "nbs" / "repro"
NOTEBOOKS = sorted(REPRO.glob("*.ipynb"))
PROFILES = sorted(p.stem for p in (REPRO / "profiles").glob("*.yaml"))
OF_THE_PAPER = """fig01_videos fig02_architecture fig03_variants fig04_animations fig05_superres
                  fig06_ablation fig07_animation fig08_user_study fig09_ssim fig10_user_study_b
                  tab01_balance tab02_inversion tab03_al_finetuned sec71_zdyn""".split()
ARTEFACTS = "a0_perception a1_train a3_encoder a5_invert a6_animate a8_baselines a9_truth".split()
PRINTED = ("fig03_variants fig06_ablation fig07_animation fig08_user_study fig10_user_study_b tab01_balance "
           "tab02_inversion tab03_al_finetuned").split()


def code_cells(path):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
def is_parameters(cell): return "parameters" in cell["metadata"].get("tags", [])


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request): return request.param


@pytest.mark.parametrize("name", OF_THE_PAPER + ARTEFACTS)
def test_every_figure_and_table_has_its_notebook(name): assert (REPRO / f"{name}.ipynb").exists()


def test_one_parameters_cell_and_papermill_reads_all_of_it(notebook):
    tagged = [cell for cell in code_cells(notebook) if is_parameters(cell)]
    assert len(tagged) == 1
    body = ast.parse("".join(tagged[0]["source"])).body
    assert all(isinstance(node, ast.AnnAssign) for node in body), "annotated literals only"
    assert ([node.target.id for node in body]
            == list(inspect_notebook(
                str(notebook)))), "papermill misses a line (an equals sign in a comment?)"
    read = {k: (v["default"], v["inferred_type_name"], v["help"])
            for k, v in inspect_notebook(str(notebook)).items()}
    assert read == {k: tuple(v.values()) for k, v in parameters_of(notebook).items()}
    for node in body: ast.literal_eval(node.value)
    assert all("#" in line for line in "".join(tagged[0]["source"]).splitlines()
               if ":" in line.split("#")[0]), "each with a comment"


def test_scratch_by_default(notebook):
    found = parameters_of(notebook)
    assert ast.literal_eval(found["output"]["default"]) == "../../runs/scratch"
    assert ast.literal_eval(found["profile"]["default"]) == "scratch"


def test_committed_without_outputs_and_without_logic(notebook):
    for cell in code_cells(notebook):
        assert not cell["outputs"] and cell["execution_count"] is None
        tree = ast.parse("".join(cell["source"]))
        assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef))
                       for node in ast.walk(tree)), "logic belongs in the library"


def test_opens_with_title_and_purpose(notebook):
    first = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
    source = "".join(first["source"])
    assert first["cell_type"] == "markdown" and source.startswith("# ") and len(source.split("\n", 1)[1]) > 80


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_name_known_parameters_only(profile):
    ready = profile_plan(profile)
    left_out = yaml.safe_load((REPRO / "profiles"
                               / f"{profile}.yaml").read_text())["settings"].get("without", [])
    assert (set(ready.parameters) == {p.stem for p in NOTEBOOKS} - set(left_out)
            and set(left_out) <= {p.stem for p in NOTEBOOKS})
    assert all(values["profile"] == profile for values in ready.parameters.values())


MAKERS = {"generator": "a1_train", "encoder": "a3_encoder", "lighting": "a4_lighting"}


def needs_of_the_graph():
    text = (REPRO / "Snakefile").read_text(encoding="utf-8")
    return ast.literal_eval(text[text.index("NEEDS = {") + 8:text.index("}", text.index("NEEDS = {")) + 1])


def ancestors(name, needs):
    source = parameters_of(REPRO / f"{name}.ipynb").get("source", "")
    found = {n for n in [*needs.get(name, []), source] if n and (REPRO / f"{n}.ipynb").exists() and n != name}
    return found.union(*(ancestors(n, needs) for n in found))


@pytest.mark.parametrize("name", sorted(p.stem for p in REPRO.glob("*.ipynb")))
def test_networks_are_trained_before_they_are_read(name):
    "A profile that trains would else give some notebook the shipped network, or last time's, by chance."
    cells = json.loads((REPRO / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    read = {network for network in MAKERS if f'"{network}"' in source or f"load_{network}(" in source}
    before = {name, *ancestors(name, needs_of_the_graph())}
    made = {network for network, maker in MAKERS.items() if maker in before}
    assert read <= made, f"{name} reads {read - made}, which nothing before it makes"


def test_the_four_profiles(): assert set(PROFILES) >= {"smoke", "cpu", "gpu", "paper"}


@pytest.mark.parametrize("text, message", [
    ("notebooks: {fig01_videos: {n_vidoes: 1}}", "no parameter 'n_vidoes': did you mean 'n_videos'"),
    ("notebooks: {fig01_video: {}}", "no such notebook"),
    ("common: {sede: 1}", "sets 'sede' for all notebooks"),
    ("settings: {thread: 1}", "no setting thread"),
    ("settings: {without: [fig01_video]}", "leaves out 'fig01_video'"),
    ("notebook: {}", "has notebook"),
    ("notebooks: [", "not valid YAML"),
    ("notebooks: {fig01_videos: {n_videos: 1e1}}",
     "wants int for 'n_videos', not '1e1'; YAML takes it for text"),
    ("common: {seed: zero}", "wants int for 'seed', not 'zero'"),
    ("settings: {threads: 0}", "wants at least 1 for 'threads'"),
    ("settings: {trains: 'no'}", "wants bool for 'trains'"),
    ("notebooks: [fig01_videos]", "not a mapping of names to values"),
    ("extend: mine.yaml", "extends itself"),
    ("extend: cpuu", "no profile 'cpuu'")])
def test_misspelt_profiles(tmp_path, capfd, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message): profile_plan(str(path))
    assert reproduce(str(path)) == 2
    printed = capfd.readouterr().err.strip()
    assert message in printed and len(printed.splitlines()) == 1 and "Traceback" not in printed


def test_a_profile_of_ones_own_is_found_from_where_one_stands(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text((REPRO / "profiles" / "smoke.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    assert (reproduce("mine.yaml", ("fig02_architecture",), dry_run=True, figures=tmp_path / "figures",
                      runs=tmp_path / "runs") == 0)


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_notebook_at_a_time_is_refused(jobs, capfd):
    assert reproduce("smoke", jobs=jobs) == 2
    assert capfd.readouterr().err == f"at least one notebook runs at a time, not {jobs}\n"


def test_a_profile_extends_another(tmp_path):
    (tmp_path
     / "mine.yaml").write_text("extend: smoke\nsettings: {jobs: 1}\nnotebooks: {fig01_videos: {n_videos: 3}}")
    (tmp_path / "hers.yaml").write_text("extend: mine.yaml\ncommon: {seed: 5}")
    smoke, mine, hers = profile_plan(
        "smoke"), profile_plan(str(tmp_path / "mine.yaml")), profile_plan(str(tmp_path / "hers.yaml"))
    same = lambda plan: {k: v for k, v in plan.parameters["fig01_videos"].items()
                         if k not in ("n_videos", "seed", "profile", "output", "folder")}
    assert same(smoke) == same(mine) == same(hers)
    assert mine.parameters["fig01_videos"]["n_videos"] == hers.parameters["fig01_videos"]["n_videos"] == 3
    assert ({p["seed"] for p in hers.parameters.values() if "seed" in p} == {5} and mine.jobs == 1
            and hers.resources == smoke.resources)
    assert smoke.figures not in (mine.figures, hers.figures), "never into the results of another"


def closure(name):
    return {path.relative_to(ROOT / "deeplandscape").as_posix()
            for path in import_closure(REPRO / f"{name}.ipynb")}


def test_import_closure(notebook):
    """What Python loads for a notebook's imports lies in its closure; the explorers, the command line and the
    pages never do."""
    found = closure(notebook.stem)
    assert not [path for path in found if path.startswith("explorers/")
                or path in ("cli.py", "report/page.py", "report/claims.py")]
    assert "core.py" in found and "report/results.py" in found


def test_import_closure_holds_what_python_loads():
    imports = "\n".join("".join(c["source"]) for c in code_cells(REPRO / "a5_invert.ipynb")
                        if "".join(c["source"]).startswith(("import", "from")))
    program = (f"{imports}\nimport sys\nprint(*[m.__file__ for n, m in list(sys.modules.items()) if "
               f"n.startswith('deeplandscape.')], sep='\\n')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    loaded = {Path(line).relative_to(ROOT / "deeplandscape").as_posix() for line in done.stdout.splitlines()
              if line.endswith(".py")}
    loaded = {path for path in loaded if not path.endswith("__init__.py")}  # of the subpackages: empty
    assert len(loaded) > 10 and loaded <= closure("a5_invert"), done.stderr


def test_a_change_of_the_explorers_makes_nothing_old():
    "And one of the discriminators makes the training old, not the user study."
    assert ("model/discriminators.py" in closure("a1_train")
            and "model/discriminators.py" not in closure("fig08_user_study"))
    assert ("experiments/comparison.py" in closure("a8_baselines")
            and "experiments/comparison.py" not in closure("a1_train"))


def test_a_clone_in_a_folder_with_a_space_and_another_kernel_of_the_same_name(tmp_path):
    """The whole graph of one notebook: the graph finds its files, the notebook its Python, and the pages are
    written."""
    clone, elsewhere = tmp_path / "a clone", tmp_path / "other kernels"
    for part in ("nbs/repro", "deeplandscape", "figures/published"):
        shutil.copytree(ROOT / part, clone / part,
                        ignore=shutil.ignore_patterns("__pycache__", "*.partial.ipynb"))
    (elsewhere / "kernels" / "python3").mkdir(parents=True)
    (elsewhere / "kernels" / "python3"
     / "kernel.json").write_text(json.dumps(dict(argv=["/bin/false"], display_name="x", language="python")))
    others = [n.stem for n in NOTEBOOKS if n.stem != "fig02_architecture"]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(dict(extend="smoke", settings=dict(without=others))))
    command = [sys.executable, "-c", "import sys; from deeplandscape.report.reproduce import reproduce; "
                                     "sys.exit(reproduce(sys.argv[1]))", str(tmp_path / "one.yaml")]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH=str(clone), JUPYTER_PATH=str(elsewhere)))
    assert done.returncode == 0, done.stdout + done.stderr
    results = clone / "runs" / "one" / "figures"
    assert ((results / "fig02_architecture.png").exists() and (results / "index.html").exists()
            and (results / "README.md").exists())


def test_graph_by_hand_refuses_a_misspelt_parameter(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("notebooks: {fig01_videos: {n_vidoes: 1}}")
    command = [sys.executable, "-m", "snakemake", "-s", str(REPRO / "Snakefile"), "-d", str(tmp_path), "-c",
               "1", "-n", "--config", f"profile={path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode == 2 and "did you mean 'n_videos'" in done.stderr
            and "Traceback" not in done.stderr)


def test_graph_has_no_cycle_and_runs_every_notebook(tmp_path, capfd):
    assert reproduce("gpu", dry_run=True, figures=tmp_path / "figures", runs=tmp_path / "runs") == 0
    lines = capfd.readouterr().out.splitlines()
    found = [line.split()[0] for line in lines[1:-1]]
    assert sorted(found) == [path.stem for path in NOTEBOOKS]
    assert lines[-1].startswith(f"{len(NOTEBOOKS)} notebooks would run: ")
    assert all("no result yet" in line for line in lines[1:-1])
    place = {name: k for k, name in enumerate(found)}
    assert place["a1_train"] < place["a3_encoder"] < place["a5_invert"] < place["tab02_inversion"]


@pytest.mark.parametrize("name", PRINTED)
def test_published_numbers(name):
    table = published(name)
    assert list(table.columns) == ["method", "condition", "metric", "better", "value"]
    assert not table.duplicated(["method", "condition", "metric"]).any()
    assert set(table.better) <= {"lower", "higher", ""}
    if name != "fig03_variants": assert pd.api.types.is_numeric_dtype(table.value)


def test_published_numbers_add_up():
    "Checks inside the paper: wins of a pair sum to one; the gains of Figure 6 sum to the total it prints."
    ablation = published("fig06_ablation").query("metric == 'ΔR'")
    assert (ablation[ablation.condition == ""].value.sum()
            == pytest.approx(ablation[ablation.condition != ""].value.item()))
    for name in ("fig08_user_study", "fig10_user_study_b"):
        ours = published(name).query("metric == 'wins' and method.str.startswith('Ours')")
        for _, pair in ours.groupby(ours.condition.str.split(",").str[0] if "8" in name else "metric"):
            assert pair.value.sum() == pytest.approx(1)


def test_commit_says_when_the_tree_is_dirty(monkeypatch):
    for changes, commit in ((" M nbs/01_core.ipynb", "abc-dirty"), ("", "abc")):
        monkeypatch.setattr(results, "git", lambda *command: "abc" if command[0] == "rev-parse" else changes)
        assert results.git_commit() == commit
    monkeypatch.setattr(results, "git", lambda *command: None)
    assert results.git_commit() is None


def test_fingerprint_ignores_clock_and_machine_only(tmp_path):
    def saved(value, folder, **more):
        return fingerprint(save_result("a99", "x", values={"v": value}, output=tmp_path / folder,
                                       **more).parent)
    first = saved(1.0, "a", started=0.0, parameters={"folder": str(tmp_path), "n": 1})
    assert first == saved(1.0, "b", started=1.0, parameters={"folder": "elsewhere", "n": 1})
    assert first != saved(1.5, "c", parameters={"n": 1}) and first != saved(1.0, "d", parameters={"n": 2})


def test_result_made_from_a_changed_file_is_out_of_date(tmp_path):
    table = pd.DataFrame({"n": [1]})
    first = save_result("a98", "x", table=table, output=tmp_path)
    made = save_result("tab98", "x", output=tmp_path, inputs=(tmp_path / "a98.csv",))
    assert is_current(made)
    first.unlink()
    assert not is_current(made)
    save_result("a98", "x", table=table, output=tmp_path)
    assert is_current(made)
    (tmp_path / "a98.csv").write_text("n\n2\n")
    assert not is_current(made)


def test_sources_are_names_of_notebooks(notebook): assert source_of(notebook.stem).replace("_", "").isalnum()


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_say_what_they_are(profile): assert len(read_profile(profile)[1]["settings"]["about"]) > 40
