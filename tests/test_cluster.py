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
