"""What captions, pages and cards say of the generator is what its own file says; nothing of it is typed."""
import html
import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from deeplandscape.files import file_sha256
from deeplandscape.registry import find_weights
from deeplandscape.model.generator import load_generator
from deeplandscape.report.ours import generator_sentence
from deeplandscape.report.page import with_symbols
from deeplandscape.report.results import save_result
from deeplandscape.training.schedule import PROFILES

ROOT = Path(__file__).resolve().parents[1]
CPU = ROOT / "figures" / "cpu"
HEADER = load_generator().meta
SAID = ("resolution", "discriminators", "amplified", "begun_with", "images_seen", "data")


def sentence(folder, **values):
    "What is said of a generator whose file says this."
    save_result("a1_train", "cpu", values=values, output=folder)
    return generator_sentence(folder)


@pytest.mark.parametrize("key, value, words", [
    ("resolution", 96, "a generator of 96 px"), ("discriminators", "projected", "discriminators: projected"),
    ("amplified", 1.75, "S_dyn made 1.75 times stronger after the training"),
    ("config", {"dynamic_gate": True}, "a gate on S_dyn"), ("begun_with", "another", "begun with another")])
def test_each_statement_follows_the_header(tmp_path, key, value, words):
    plain = {"resolution": 32, "config": {"dynamic_gate": False}}
    assert words not in sentence(tmp_path, **plain)
    assert words in sentence(tmp_path, **plain | {key: value})


def test_results_and_pages_repeat_the_header(tmp_path):
    "Of the shipped weights, as long as the committed results were made with them."
    facts = json.loads((CPU / "a1_train.json").read_text(encoding="utf-8"))
    assert facts["weights"]["generator.safetensors"] == file_sha256(find_weights("generator"))
    config, values = HEADER["config"], facts["values"]
    assert values["config"] == config and values["resolution"] == config["resolution"]
    assert {k: values.get(k) for k in SAID[1:]} == {k: HEADER.get(k) for k in SAID[1:]}
    said = sentence(tmp_path, config=config, resolution=config["resolution"],
                    **{k: HEADER[k] for k in SAID[1:] if k in HEADER})
    assert said == generator_sentence(CPU) and said in (ROOT / "README.md").read_text(encoding="utf-8")
    assert html.unescape(str(with_symbols(said))) in html.unescape((CPU / "index.html").read_text("utf-8"))


def test_card_of_the_generator():
    card, config = find_weights("generator").with_suffix(".md").read_text(encoding="utf-8"), HEADER["config"]
    first = card.split("\n\n")[1]
    assert f"{config['resolution']} px" in first and ("gate" in first) == config["dynamic_gate"]
    assert f"{HEADER['images_seen']:,}" in first
    assert ("amplified" in HEADER) == bool(re.search(r"amplif|times stronger", card))


def typed():
    "Texts written by hand in which a statement about our generator could hide."
    for path in sorted((ROOT / "nbs" / "repro").glob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        yield path.name, "\n".join(c.source for c in cells if c.cell_type == "markdown")
    for item in yaml.safe_load((ROOT / "figures/published/contents.yaml").read_text(encoding="utf-8")):
        yield item["name"], item["differs"]
    for claim in yaml.safe_load((ROOT / "figures/published/claims.yaml").read_text(encoding="utf-8")):
        yield claim["id"], claim.get("note", "")
    template = (ROOT / "nbs" / "repro" / "report.html").read_text(encoding="utf-8")
    yield "report.html", re.sub(r"<style>.*?</style>|{%.*?%}|{{.*?}}|<[^>]*>", " ", template, flags=re.S)


@pytest.mark.parametrize("name, text", list(typed()), ids=lambda v: v[:20].replace("\n", " "))
def test_no_property_of_ours_is_typed(name, text):
    "Sizes in pixels are the paper's; gate, amplification and frozen features are said by the files alone."
    assert set(re.findall(r"(\d+) ?(?:px|pixels)\b", text)) <= {"128", "256"}, name
    assert not re.search(r"\bgated?\b|amplif|times stronger|frozen features|projected", text, re.I), name


def test_sizes_on_the_first_pages():
    "Where to begin says none; the README has that of a profile of training."
    start, index = ("\n".join(c.source for c in nbformat.read(ROOT / "nbs" / name, 4).cells
                              if c.cell_type == "markdown") for name in ("00_start.ipynb", "index.ipynb"))
    assert not re.search(r"\d ?(pixels|px)\b", start)
    said = re.search(r"`overnight` trains a generator of (\d+) pixels.*?\bfrozen features", index, re.S)
    assert int(said[1]) == PROFILES["overnight"].generator.resolution and PROFILES["overnight"].projected
