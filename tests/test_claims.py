"""The claims of the paper and their rules: complete, fair to the paper's own numbers, and free of numbers and
verdicts of ours."""
import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from deeplandscape.report.claims import (
    claim_verdicts, correction_sentence, judge, read_claims, source_of, VERDICTS)
from deeplandscape.core import InputError
from deeplandscape.report.figures import published
from deeplandscape.report.evidence import names_in
from deeplandscape.report.page import write_report
from deeplandscape.report.results import items_table, save_result
from deeplandscape.report.summary import summary

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "figures" / "published"
CLAIMS = read_claims()
CONTENTS = yaml.safe_load((PUBLISHED / "contents.yaml").read_text(encoding="utf-8"))


def test_about_all_of_the_paper():
    assert all(isinstance(text, str) and text for c in CLAIMS for text in (c.id, c.section, c.claim, c.shown))
    assert len(CLAIMS) >= 20 and len({c.id for c in CLAIMS}) == len(CLAIMS)
    names = [item["name"] for item in CONTENTS]
    assert {c.shown for c in CLAIMS} <= set(names)
    pages = [item["page"] for item in CONTENTS]
    assert (pages == sorted(pages) and set(names)
            == {p.stem for p in (ROOT / "nbs" / "repro").glob("*.ipynb")
                if p.stem[:3] in ("fig", "tab", "sec")})


def test_nothing_of_ours_is_typed():
    "Only known keys, and no key that could carry a verdict or a number of ours."
    for entry in yaml.safe_load((PUBLISHED / "claims.yaml").read_text(encoding="utf-8")):
        assert (set(entry) <= {"id", "section", "claim", "shown", "numbers", "checks", "controls",
                               "contradicted", "chosen", "needs", "note"})
        for place in entry.get("numbers", {}).values():
            assert "ours" in place or "paper" in place
            assert not any(isinstance(v, float) for v in place.values())
    known = {"name", "label", "page", "title", "paper", "differs"}
    assert all(set(item) - {"number"} == known for item in CONTENTS)
    template = (ROOT / "nbs" / "repro" / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<style>.*?</style>|{%.*?%}|{{.*?}}|{#.*?#}", " ", template, flags=re.S)
    text = re.sub(r"<[^>]*>", " ", text)
    assert not re.search(r"\d\.\d", text)
    assert set(re.findall(r"(?<![a-z])\d+", text)) <= {"2020", "256", "95", "0"}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_rule_is_fair_to_the_paper(claim):
    "On the numbers that the paper prints no comparison fails, but those that are said to be contradicted."
    on_paper = judge(claim, None)
    assert {c.rule for c in on_paper.checks if c.says == "does not hold"} == set(claim.contradicted)
    assert not any(c.says == "undecided" for c in on_paper.checks)
    for name, entry in claim.numbers.items():
        if "paper" in entry:
            printed = {name: value for name, _, value in on_paper.numbers}[name]
            own_metric = (set(published(entry["paper"]).metric)
                          & set(entry["metric"] if isinstance(entry["metric"], list) else [entry["metric"]]))
            assert printed is not None or not own_metric, (f"{name} is not in the paper's table as the rule "
                                                           f"says")


def test_no_rule_holds_by_construction():
    "What is true of any network by its form, and land that is pasted, is not asked for."
    text = (PUBLISHED / "claims.yaml").read_text(encoding="utf-8")
    assert "error at c = 0}" not in text and "finished}" not in text and "first and last" not in text
    controlled = {c.id for c in CLAIMS if c.controls}
    assert {"lighting_network", "video_distance", "super_resolution"} <= controlled


def test_nothing_without_results(tmp_path):
    assert {v.says for v in claim_verdicts(tmp_path)} <= set(VERDICTS[4:])


def write_inversion(folder, SSIM, LPIPS=None):
    "A result of Table 2 whose values of items are given: method -> values."
    items = {(m, "SSIM"): v for m, v in SSIM.items()} | {(m, "LPIPS"): v for m, v in (LPIPS or {}).items()}
    lines = [{"method": m, "condition": "", "metric": k, "value": np.mean(v)} for (m, k), v in items.items()]
    return save_result("a5_invert", "cpu", table=pd.DataFrame(lines), items=items_table(items), output=folder)


def verdict(folder, claim): return {v.claim.id: v for v in claim_verdicts(folder)}[claim]


def says(folder, claim): return verdict(folder, claim).says


HARD = np.array([0.80, 0.90, 0.70, 0.85, 0.60])      # some photographs are harder than others


def test_verdicts_follow_the_files(tmp_path):
    better = HARD + [0.05, 0.04, 0.06, 0.05, 0.05]
    result = write_inversion(tmp_path, {"EOI": HARD, "EOIF": better})
    assert says(tmp_path, "fine_tuning") == "undecided"       # without LPIPS one comparison of two
    assert [c.says for c in verdict(tmp_path, "fine_tuning").checks] == ["holds", "not measured"]
    write_inversion(tmp_path, {"EOI": HARD, "EOIF": better}, {"EOI": better, "EOIF": HARD})
    assert says(tmp_path, "fine_tuning") == "reproduced"
    write_inversion(tmp_path, {"EOI": HARD, "EOIF": better}, {"EOI": HARD, "EOIF": better})
    assert says(tmp_path, "fine_tuning") == "partly"
    write_inversion(tmp_path, {"EOI": better, "EOIF": HARD})
    assert says(tmp_path, "fine_tuning") == "not reproduced"
    result.unlink()
    assert result.with_suffix(".csv").exists() and says(tmp_path, "fine_tuning") == "not measured yet"


def test_a_better_mean_decides_nothing_alone(tmp_path):
    "The mean is higher, the interval holds zero."
    uncertain = HARD + [0.30, -0.25, 0.20, -0.15, 0.10]
    assert uncertain.mean() > HARD.mean()
    write_inversion(tmp_path, {"EOI": HARD, "EOIF": uncertain})
    assert verdict(tmp_path, "fine_tuning").checks[0].says == "undecided"
    (tmp_path / "a5_invert_items.csv").unlink()               # and a mean without interval or items neither
    assert verdict(tmp_path, "fine_tuning").checks[0].says == "not tested"


@pytest.mark.parametrize("side", [16, 128])
def test_the_size_of_an_experiment_makes_nothing_untestable(tmp_path, side):
    names = ["Original StyleGAN", "+ frame discriminator", "+ separate S_st and S_dyn",
             "+ separate z_st and z_dyn", "+ crop sampling"]
    rng, items = np.random.default_rng(0), []
    for i, method in enumerate(names):
        found = items_table({(method, "SSIM"): 0.5 + 0.1 * i + 0.005 * rng.normal(size=3)})
        items.append(found.assign(item=method + found["item"]))          # trainings of rows are independent
    save = lambda table: save_result("a2_ablations", "cpu", items=table, parameters={"resolution": side},
                                     output=tmp_path)
    save(pd.concat(items))
    found = verdict(tmp_path, "consistency_grows")
    assert found.says == "reproduced" and [c.ours.items for c in found.checks] == [3] * 4
    save(pd.concat(items).query("item.str.endswith('0')"))
    assert says(tmp_path, "consistency_grows") == "undecided"        # one training says nothing of another


def test_what_does_nothing_has_to_be_beaten(tmp_path):
    rng = np.random.default_rng(0)
    for nothing, wanted in ((0.6, "reproduced"), (0.3, "undecided")):
        items = {(m, f"relative error at c = {c}"): v + 0.02 * rng.normal(size=30)
                 for c in ("0.5", "1") for m, v in (("A", 0.4), ("nothing", nothing))}
        save_result("a4_lighting", "cpu", items=items_table(items), output=tmp_path)
        assert says(tmp_path, "lighting_network") == wanted
    assert "control" in verdict(tmp_path, "lighting_network").why


def test_data_that_chose_the_model_are_told(tmp_path):
    effect = items_table({(name, "effect"): [0.2, 0.21, 0.2] for name in ("z_st", "z_dyn", "S_st", "S_dyn")})
    for values in ({}, {"amplified": 3.2}):
        save_result("a1_train", "cpu", items=effect, values=values, output=tmp_path)
        assert len(verdict(tmp_path, "latents").flags) == len(values)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Measured on data by which the model was chosen" in text


def test_one_verdict_on_every_page(tmp_path):
    folder = tmp_path / "cpu"
    write_inversion(folder, {"EOI": HARD, "EOIF": HARD + [0.05, 0.04, 0.06, 0.05, 0.05]})
    text = write_report(folder).read_text(encoding="utf-8")
    rows = re.findall(r'<tr id="claim-(\w+)" data-says="([^"]*)"', text)
    assert rows == [(v.claim.id, v.says) for v in claim_verdicts(folder)]
    line = next(row for row in summary(folder).splitlines() if "Table 2" in row)
    for name in VERDICTS:
        count = sum(v.says == name and v.claim.shown == "tab02_inversion" for v in claim_verdicts(folder))
        assert (f"{count} {name}" in line) == (count > 0)


def test_the_number_of_claims_is_corrected_for(tmp_path):
    "What is significant by itself and not in its family is undecided everywhere, and both counts are told."
    folder, rng = tmp_path / "cpu", np.random.default_rng(0)
    fine = rng.normal(0, 0.01, 30)
    weak = HARD.mean() + 0.05 * (fine - fine.mean()) / fine.std() + 0.0205       # about 2.2 standard errors
    items = {("EOI", "SSIM"): np.full(30, HARD.mean()), ("EOIF", "SSIM"): weak,
             ("EOI", "LPIPS"): weak, ("EOIF", "LPIPS"): np.full(30, HARD.mean())}
    save_result("a5_invert", "cpu", items=items_table(items), output=folder)
    found = verdict(folder, "fine_tuning")
    assert 0.025 < found.p < 0.05 < found.corrected
    assert (found.alone, found.says) == ("reproduced", "undecided")
    told = correction_sentence(claim_verdicts(folder))
    assert "1 reproduced" in told.split(";")[0] and "reproduced" not in told.split(";")[1]
    assert told in html.unescape(write_report(folder).read_text(encoding="utf-8")) and told in summary(folder)


def test_numbers_are_used_once_defined():
    for claim in CLAIMS:
        assert set().union(*map(names_in, (*claim.checks, *claim.controls))) == set(claim.numbers)


def test_sources_are_those_of_the_notebooks(): assert source_of("tab02_inversion") == "a5_invert"


def test_claims_with_a_slip(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text("- {id: a, section: '1', claim: A., shown: fig01_videos, numbers: {x: {ours: a, value: "
                    "y}}, checks: ['x > open(1)']}")
    with pytest.raises(InputError): read_claims(path)
