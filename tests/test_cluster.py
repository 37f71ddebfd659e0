"""The graph on a cluster: Snakemake takes the committed settings; the page names commands that there are."""
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner
import yaml

from deeplandscape.cli import app
from deeplandscape.report.reproduce import reproduce

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "nbs" / "repro" / "cluster"
pytest.importorskip("snakemake_executor_plugin_cluster_generic")


@pytest.mark.parametrize("name", ["generic", "slurm"])
def test_settings_are_taken_by_snakemake(name, tmp_path, capfd):
    "The committed files name settings that the executors have."
    places = {"figures": tmp_path / "figures", "runs": tmp_path / "runs"}
    assert reproduce("smoke", ("fig02_architecture",), dry_run=True, cluster=name, **places) == 0
    assert "fig02_architecture" in capfd.readouterr().out
    settings = yaml.safe_load((CLUSTER / name / "config.yaml").read_text(encoding="utf-8"))
    assert settings["retries"] == 1 and settings["jobs"] > 1


# what sbatch, sacct and scancel are on a real one, with processes of this machine and a folder as its memory
SUBMIT = """#!/bin/bash
cd {folder}; number=$(ls *.script 2>/dev/null | wc -l); cp "$1" "$number.script"
if [ "$number" -eq {lost} ]; then echo 137 > "$number.rc"; echo "$number"; exit; fi
(cd - > /dev/null; bash "$1" > {folder}/$number.log 2>&1 < /dev/null
 echo $? > {folder}/$number.rc) > /dev/null &
echo "$number"
"""
STATUS = """#!/bin/bash
if [ ! -f {folder}/$1.rc ]; then echo running; exit; fi
if [ "$(cat {folder}/$1.rc)" = 0 ]; then echo success; else echo failed; fi
"""


def local_cluster(folder, lost):
    "The generic settings with commands of this machine; the scheduler loses the job number `lost`."
    shutil.copytree(CLUSTER / "generic", folder / "mine")
    (folder / "jobs").mkdir()
    settings = yaml.safe_load((folder / "mine" / "config.yaml").read_text(encoding="utf-8"))
    for name, text in {"submit": SUBMIT, "status": STATUS}.items():
        (folder / name).write_text(text.format(folder=folder / "jobs", lost=lost))
        (folder / name).chmod(0o700)
        settings[f"cluster-generic-{name}-cmd"] = str(folder / name)
    settings |= {"cluster-generic-cancel-cmd": "true", "latency-wait": 5}
    (folder / "mine" / "config.yaml").write_text(yaml.safe_dump(settings))
    return str(folder / "mine")


@pytest.mark.slow
def test_notebooks_run_as_jobs_and_a_lost_job_is_submitted_again(tmp_path, capfd):
    "Two notebooks, one of which needs the other; the scheduler loses the second job."
    figures, runs = tmp_path / "figures", tmp_path / "runs"
    code = reproduce("smoke", ("fig02_architecture", "fig06_ablation"), figures=figures, runs=runs,
                     cluster=local_cluster(tmp_path, lost=1))
    assert code == 0, capfd.readouterr().err[-3000:]
    assert all((figures / f"{name}.json").exists() for name in ("fig06_ablation", "a2_ablations"))
    ends = {file.stem: file.read_text().strip() for file in (tmp_path / "jobs").glob("*.rc")}
    assert ends.pop("1") == "137" and len(ends) >= 3 and set(ends.values()) == {"0"}


def test_a_cluster_of_ones_own_and_none(tmp_path, capfd):
    places = {"figures": tmp_path / "figures", "runs": tmp_path / "runs"}
    assert reproduce("smoke", ("fig02_architecture",), cluster="slrum", **places) == 2
    assert "'slrum' holds no config.yaml" in capfd.readouterr().err
    shutil.copytree(CLUSTER / "generic", tmp_path / "mine")
    mine = str(tmp_path / "mine")
    assert reproduce("smoke", ("fig02_architecture",), dry_run=True, cluster=mine, **places) == 0


def test_commands_of_the_page_are_ones_that_there_are(tmp_path):
    "Each option that the page writes after a command is one of that command; what it links to is there."
    text = (CLUSTER / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text): assert (CLUSTER / link).exists(), link
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, flags=re.M | re.S))
    lines = re.findall(r"deeplandscape ((?:results )?\w+)( .*)$", blocks, flags=re.M)
    assert {name for name, _ in lines} == {"reproduce", "results spread", "results diff", "train"}
    for name, rest in lines:
        shown = CliRunner().invoke(app, [*name.split(), "--help"]).output
        for option in re.findall(r"(?<= )--?[a-z][a-z-]*", rest.split("#")[0]):
            assert re.search(rf"{option}\b", shown), f"{name} has no {option}"
