"""The papers of the house: first page, versions, citation, the site of all notebooks."""
import configparser
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import deeplandscape
from deeplandscape.cli import app
from deeplandscape.report.results import save_result
from deeplandscape.report.site import build_site, contents_table
from deeplandscape.report.summary import summary

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"), key=lambda path: path.stem.split("_")[0])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_versions_agree():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert deeplandscape.__version__ == settings["DEFAULT"]["version"] == cited["version"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {deeplandscape.__version__}, {cited['date-released']}" in changes


def test_citation_names_paper_and_software():
    "What the Citation File Format 1.2 requires, and the paper as the README has it."
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited) and cited["title"] == "deeplandscape"
    paper, = cited["references"]
    assert paper["title"] in README and all(author["family-names"] in README for author in paper["authors"])


def test_types_are_announced():
    assert (ROOT / "deeplandscape" / "py.typed").exists()
    assert '"py.typed"' in (ROOT / "pyproject.toml").read_text()


def test_workflow_runs_what_a_laptop_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[-1] == {"run": ".ci/run"} and os.access(ROOT / ".ci" / "run", os.X_OK)
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert oldest in workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "nbs" / "index.ipynb"], ids=["README", "index"])
def test_first_page_lists_every_notebook_with_its_number(page):
    text = page.read_text(encoding="utf-8")
    listed = set(re.findall(r"nbs/(\d\d\d?_\w+\.ipynb)", text))
    assert listed == {path.name for path in NOTEBOOKS}, "run `make readme`"
    assert all(f"[{path.stem.replace('_', ' ', 1)}](" in text for path in NOTEBOOKS)


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", README) + re.findall(r'src="([^"]+)"', README)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert len(local) > 80 and not [target for target in local if not (ROOT / target).exists()]


def test_commands_of_the_readme_exist():
    "Every command line and option that the first page shows is one that the program has."
    lines = re.findall(r"^deeplandscape (.+)$", README, flags=re.M)
    assert len(lines) >= 6
    for line in lines:
        line = line.split("#")[0]
        done = CliRunner().invoke(app, [line.split()[0], "--help"])
        assert done.exit_code == 0, line
        options = re.findall(r"(?<= )--?[a-z][a-z-]*", line)
        missing = [option for option in options if not re.search(rf"{option}\b", done.stdout)]
        assert not missing, f"{line}: no option {', '.join(missing)}"


def test_summary_prints_what_the_files_say(tmp_path):
    "A number, its interval and its minutes come from the result; without the result there is none of them."
    columns = ("method", "condition", "metric", "value", "low", "high")
    lines = [("EO", "", "SSIM", 0.7, 0.6, 0.75), ("EOIFS", "", "SSIM", 0.81, 0.8, 0.83)]
    table = pd.DataFrame(lines, columns=columns)
    result = save_result("a5_invert", "cpu", table=table, values={}, output=tmp_path)
    facts = json.loads(result.read_text())
    result.write_text(json.dumps(facts | {"run": facts["run"] | {"seconds": 90.0}}))
    line = next(line for line in summary(tmp_path).splitlines() if "Table 2" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "`deeplandscape reproduce tab02_inversion`" and cells[2].endswith(": 0.81 ↑")
    assert cells[3:5] == ["0.8 to 0.83", "1.5"]
    result.unlink()
    line = next(line for line in summary(tmp_path).splitlines() if "Table 2" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:5] == ["not measured yet", "–", "–"] and "reproduced" not in cells[5]


def test_summary_has_every_figure_and_table_once():
    contents = yaml.safe_load((ROOT / "figures" / "published" / "contents.yaml").read_text())
    lines = [line for line in summary(ROOT / "figures" / "cpu").splitlines() if line.startswith("| ")][2:]
    commands = [line.split(" | ")[1] for line in lines]
    assert commands == [f"`deeplandscape reproduce {item['name']}`" for item in contents]
    measured = [line for line in lines if "not measured yet" not in line]
    assert len(measured) >= 10, "numbers named in contents.yaml are found in the results"


class Links(HTMLParser):
    "Addresses of a page."
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("href", "src") and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    chosen = ("20_layers", "fig01_videos", "index", "motion")
    return build_site(tmp_path_factory.mktemp("site"), only=chosen).parent


def test_site_has_the_pages_in_the_houses_order(site):
    links = [link for link in Links(site / "index.html").found if re.match(r"nbs/\d", link)]
    assert links == [f"nbs/{path.stem}.html" for path in NOTEBOOKS]
    pages = [page.name for page in sorted((site / "nbs").rglob("*.html"))]
    assert pages == ["20_layers.html", "motion.html", "index.html", "fig01_videos.html"]


def test_links_of_the_site_lead_somewhere(site):
    "To a file of the site, or to the page of a notebook that this small site leaves out."
    count = 0
    for page in [site / "index.html", *(site / "nbs").rglob("*.html")]:
        for link in Links(page).found:
            if re.match(r"[a-z]+:|#|//", link): continue
            there = Path(os.path.normpath(page.parent / unquote(link.split("#")[0])))
            source = (ROOT / there.relative_to(site)).with_suffix(".ipynb")
            assert there.exists() or source.exists(), f"{page.name}: {link}"
            count += 1
    assert count > 200


def test_pages_hold_pictures_and_addresses(site):
    text = (site / "nbs" / "20_layers.html").read_text(encoding="utf-8")
    assert "data:image" in text and "default_exp" not in text
    assert "colab.research.google.com" in text and "mybinder.org" in text
    moving = (site / "nbs" / "repro" / "fig01_videos.html").read_text(encoding="utf-8")
    assert "../../figures/cpu/fig01_videos.webp" in moving
    assert (site / "figures" / "cpu" / "fig01_videos.webp").exists()


def test_contents_table_is_the_one_of_the_readme(): assert contents_table("nbs/") in README
