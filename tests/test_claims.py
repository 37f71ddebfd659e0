"""The claims of the paper and their rules: complete, fair to the paper's own numbers, and free of numbers and
verdicts of ours."""
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from deeplandscape.report.claims import claim_verdicts, judge, read_claims, source_of, VERDICTS
from deeplandscape.core import InputError
from deeplandscape.report.figures import published
from deeplandscape.report.results import save_result

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
        assert (set(entry) <= {"id", "section", "claim", "shown", "numbers", "checks", "applies", "needs",
                               "note"})
        for place in entry.get("numbers", {}).values():
            assert "ours" in place or "paper" in place
            assert not any(isinstance(v, float) for v in place.values())
    known = {"name", "label", "page", "title", "paper", "differs"}
    assert all(set(item) - {"number"} == known for item in CONTENTS)
    template = (ROOT / "nbs" / "repro" / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<style>.*?</style>|{%.*?%}|{{.*?}}|{#.*?#}", " ", template, flags=re.S)
    text = re.sub(r"<[^>]*>", " ", text).replace("mp4", "")
    assert not re.search(r"\d\.\d", text) and set(re.findall(r"\d+", text)) <= {"2020", "256"}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_rule_is_fair_to_the_paper(claim):
    "On the numbers that the paper prints no comparison fails."
    on_paper = judge(claim, None)
    assert [check for check, good, _ in on_paper.checks if good is False] == []
    for name, entry in claim.numbers.items():
        if "paper" in entry:
            printed = {name: value for name, _, value in on_paper.numbers}[name]
            own_metric = (set(published(entry["paper"]).metric)
                          & set(entry["metric"] if isinstance(entry["metric"], list) else [entry["metric"]]))
            assert printed is not None or not own_metric, (f"{name} is not in the paper's table as the rule "
                                                           f"says")


def test_nothing_without_results(tmp_path):
    assert {v.says for v in claim_verdicts(tmp_path)} <= set(VERDICTS[3:])


def write_inversion(folder, SSIM):
    lines = [{"method": m, "condition": "", "metric": "SSIM", "value": v} for m, v in SSIM.items()]
    return save_result("a5_invert", "cpu", table=pd.DataFrame(lines), output=folder)


def verdict(folder, claim): return {v.claim.id: v.says for v in claim_verdicts(folder)}[claim]


def test_verdicts_follow_the_files(tmp_path):
    result = write_inversion(tmp_path, {"EOI": 0.90, "EOIF": 0.95})
    assert verdict(tmp_path, "fine_tuning") == "partly"  # without LPIPS one comparison of two
    write_inversion(tmp_path, {"EOI": 0.95, "EOIF": 0.90})
    assert verdict(tmp_path, "fine_tuning") == "not reproduced"
    result.unlink()
    assert result.with_suffix(".csv").exists() and verdict(tmp_path, "fine_tuning") == "not measured yet"


def test_small_ablations_judge_nothing(tmp_path):
    names = ["Original StyleGAN", "+ frame discriminator", "+ separate S_st and S_dyn",
             "+ separate z_st and z_dyn", "+ crop sampling"]
    table = pd.DataFrame([{"method": m, "condition": "x", "metric": "SSIM", "value": 0.5 + 0.1 * i}
                          for i, m in enumerate(names)])
    for side, says in ((16, "not testable here"), (128, "reproduced")):
        save_result("a2_ablations", "cpu", table=table, parameters={"resolution": side}, output=tmp_path)
        assert verdict(tmp_path, "consistency_grows") == says


def test_sources_are_those_of_the_notebooks(): assert source_of("tab02_inversion") == "a5_invert"


def test_claims_with_a_slip(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text("- {id: a, section: '1', claim: A., shown: fig01_videos, numbers: {x: {ours: a, value: "
                    "y}}, checks: ['x > open(1)']}")
    with pytest.raises(InputError): read_claims(path)
