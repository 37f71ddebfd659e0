"""Committed numbers computed again from committed raw outputs, by other code: scipy and a few lines of numpy.
They differ from the committed ones only as far as rounding allows, or something is wrong."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats

from deeplandscape.report.claims import claim_verdicts

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "figures" / "cpu"


def items(name, method, metric):
    "Values of a method by item, as the file has them."
    path = FIGURES / f"{name}_items.csv"
    if not path.exists(): pytest.skip(f"{path.name} is not there")
    table = pd.read_csv(path)
    return table[(table.method == method) & (table.metric == metric)].set_index("item").value


def found(claim, rule):
    "What the claims found for a comparison."
    verdict = {v.claim.id: v for v in VERDICTS}[claim]
    return next(c.ours for c in (*verdict.checks, *verdict.controls) if c.rule == rule)


VERDICTS = claim_verdicts(FIGURES)


def close(margin, value, ends):
    assert margin.value == pytest.approx(value, rel=1e-6, abs=1e-9)
    assert (margin.low, margin.high) == pytest.approx(tuple(ends), rel=1e-6, abs=1e-9)


def test_the_encoder_beside_the_mean_style():
    both = {"pictures, mean |difference|": "error_of_E < 0.75 * error_of_the_mean_style",
            "styles, mean |E - W|": "style_error_of_E < 0.75 * style_error_of_the_mean_style"}
    for metric, names in both.items():
        E, mean = (items("a3_encoder", method, metric) for method in ("E", "mean style"))
        test = stats.ttest_rel(0.75 * mean, E)
        close(found("encoder", names), (0.75 * mean - E).mean(), test.confidence_interval())
        values = json.loads((FIGURES / "a3_encoder.json").read_text())["values"]
        assert values[f"{metric}, E"] == pytest.approx(E.mean(), rel=1e-4)


def test_the_lighting_network_beside_doing_nothing():
    A, nothing = (items("a4_lighting", m, "relative error at c = 0.5") for m in ("A", "nothing"))
    test = stats.ttest_rel(nothing, A)
    close(found("lighting_network", "error_at_half < nothing_at_half"), (nothing - A).mean(),
          test.confidence_interval())


def test_what_the_first_coordinate_changes():
    change = items("sec71_zdyn", "coordinate 1", "temperature: change")
    low, high = stats.ttest_1samp(change, 0).confidence_interval()
    farthest = max(abs(low), abs(high))
    assert found("zdyn_first", "abs(temperature) < 0.25").low == pytest.approx(0.25 - farthest, rel=1e-6)
    night = items("sec71_zdyn", "coordinates 1 and 2", "share with dark night")
    ends = stats.binomtest(int(night.sum()), len(night)).proportion_ci(method="wilson")
    close(found("zdyn_hours", "night > 0.5"), night.mean() - 0.5, np.array(ends) - 0.5)


def test_differences_of_trainings_and_their_correction():
    "Welch's interval by scipy, Holm's correction by its definition."
    table = pd.read_csv(FIGURES / "a2_ablations.csv")
    judged = table[table.of.notna()]
    if "corrected" not in judged: pytest.skip("measured before the correction")
    for line in judged.itertuples():
        a, b = (items("a2_ablations", method, line.metric) for method in (line.of, line.against))
        if min(len(a), len(b)) < 2: continue
        test = stats.ttest_ind(a, b, equal_var=False)
        assert (line.low, line.high) == pytest.approx(tuple(test.confidence_interval()), rel=1e-3, abs=1e-4)
        assert line.p == pytest.approx(test.pvalue, rel=1e-3)
        less = judged[judged.p < line.p]
        steps = [(judged.p.notna().sum() - k) * p for k, p in enumerate(sorted([*less.p, line.p]))]
        assert line.corrected == pytest.approx(min(1, max(steps)), rel=1e-3)


def windows(v, mask):
    "Means over Gaussian windows of 11 pixels that count the mask alone."
    smooth = lambda x: ndimage.gaussian_filter(x, 1.5, truncate=5 / 1.5, mode="constant")
    return smooth(v * mask) / np.maximum(smooth(mask), 1e-8)


def ssim_inside(x, y, mask):
    "Structural similarity of two pictures (3, H, W) in [0, 1], mean over a mask (H, W)."
    total = 0
    for a, b in zip(x, y):
        ma, mb = windows(a, mask), windows(b, mask)
        va, vb = windows(a * a, mask) - ma**2, windows(b * b, mask) - mb**2
        ab = windows(a * b, mask) - ma * mb
        score = (2 * ma * mb + 1e-4) * (2 * ab + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
        total += (score * mask).sum() / mask.sum() / 3
    return total


def test_pictures_of_the_first_figure():
    "SSIM of the land and change of brightness, from the frames themselves."
    path = FIGURES / "fig01_videos_raw.npz"
    if not path.exists(): pytest.skip("no frames are kept")
    raw, table = np.load(path), pd.read_csv(FIGURES / "fig01_videos.csv")
    for i, (pair, mask) in enumerate(zip(raw["frames"] / 255.0, raw["static"].astype(float))):
        of = lambda metric: table[(table.method == f"video {i}") & (table.metric == metric)].value.item()
        assert ssim_inside(pair[1], pair[0], mask) == pytest.approx(
            of("static SSIM, last frame against first"), abs=2e-3)         # bytes instead of floats
        luma = (np.array([0.299, 0.587, 0.114])[:, None, None] * pair).sum(1).mean((1, 2))
        assert luma[1] - luma[0] == pytest.approx(of("change of brightness"), abs=1e-3)


def test_it_fails_where_a_number_is_wrong():
    "The comparison notices a changed value of an item."
    E, mean = (items("a3_encoder", method, "pictures, mean |difference|") for method in ("E", "mean style"))
    E = E.copy()
    E.iloc[0] *= 1.1
    with pytest.raises(AssertionError):
        close(found("encoder", "error_of_E < 0.75 * error_of_the_mean_style"), (0.75 * mean - E).mean(),
              stats.ttest_rel(0.75 * mean, E).confidence_interval())
