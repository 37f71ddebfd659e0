"""Figures 7 and 9: a perfect system wins everything, a damaged one nothing; stopped and started again gives
the same; standard networks get their names."""
import math

import pandas as pd
import pytest
import torch

from deeplandscape.experiments import comparison
from deeplandscape.report.claims import claim_verdicts
from deeplandscape.experiments.comparison import (
    against_real, comparison_items, comparison_table, folder_clips, measure_clips, measured_curves,
    MetricNetworks, pick_metrics, RealClip, scene_clips, set_distance, Take)
from deeplandscape.core import InputError
from deeplandscape.media import from_uint8, to_uint8, write_video
from deeplandscape.metrics.extractors import Extractor
from deeplandscape.metrics.distances import compare_sets
from deeplandscape.video.controls import CONTROLS
from deeplandscape.video.motion import Homography
from deeplandscape.report.figures import curves_of, measured
from deeplandscape.report.results import items_table, save_result

EVERY = 20


@pytest.fixture(scope="module")
def clips(): return scene_clips(3, 32, last=40, every=EVERY)


def noisy(frames, strength):
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    return to_uint8((from_uint8(frames) + strength * noise).clamp(-1, 1))


def fake_takes(clip, **options):
    "What nobody inverted: the truth itself, the truth with noise that grows, and the first frame."
    growing = torch.stack([noisy(frame, 0.1 * n) for n, frame in enumerate(clip.frames)])
    takes = {"real clips": clip.frames, "Ours (EOIF)": clip.frames, "Ours (EOIFS)": growing,
             "control: pixels moved": noisy(clip.frames, 0.3)}
    return {name: Take(frames[None], ()) for name, frames in takes.items()}, clip.masks


@pytest.fixture
def fake(monkeypatch): monkeypatch.setattr(comparison, "all_takes", fake_takes)


def test_a_perfect_system_wins_everything(clips, fake, tmp_path):
    metrics = pick_metrics()
    rows = measure_clips(clips, EVERY, metrics)
    table = comparison_table(measured_curves(rows, metrics, EVERY, resamples=2),
                             against_real(rows, metrics, resamples=2))
    at = table.set_index(["method", "metric", "frame"]).value
    for metric, best in (("SSIM", 1), ("SSIM of the static part", 1), (metrics.names["LPIPS"], 0),
                         (metrics.names["FID"], 0), (metrics.names["FVD"], 0)):
        assert at["Ours (EOIF)", metric, ""] == pytest.approx(best, abs=1e-5)
        assert abs(at["Ours (EOIFS)", metric, ""] - best) > 1e-3
    line = lambda method, metric: at[method].loc[metric].sort_index()
    assert (line("Ours (EOIFS)", "static SSIM").is_monotonic_decreasing
            and line("Ours (EOIFS)", "static SSIM").iloc[-1] < 0.95)
    assert line("Ours (EOIF)", "static SSIM").equals(line("real clips", "static SSIM"))
    # as a result file: tables without points of curves, curves without tables; the claim about decay follows
    items = comparison_items(rows, metrics)
    save_result("a8_baselines", "cpu", table=table, items=items_table(items), output=tmp_path)
    assert (set(measured("a8_baselines", tmp_path).metric)
            == {*table[table.frame == ""].dropna(subset="value").metric}
            and curves_of("a8_baselines", tmp_path).frame.max() == 40)
    found = {v.claim.id: v for v in claim_verdicts(tmp_path)}
    assert found["slower_decay"].says == "not testable here"             # no other system was measured
    checks = {c.rule: c for c in found["statics_stay"].checks}
    assert all(c.ours.items == len(clips) for c in checks.values())      # clip by clip
    kept = [checks[f"{name}_last > 0.95 * {name}_first"].ours.value for name in ("EOIF", "EOIFS")]
    assert kept[0] > kept[1]
    assert found["statics_stay"].says in ("partly", "undecided", "not reproduced")


def test_the_order_of_clips_does_not_matter(clips, fake):
    metrics = pick_metrics()
    one, other = (against_real(measure_clips(order, EVERY, metrics), metrics, resamples=0)
                  for order in (clips, clips[::-1]))
    for (system, condition, m), (*same, n) in zip(one, other):
        assert (same == [system, condition]
                and (m.value == pytest.approx(n.value, rel=1e-6, abs=1e-8)
                     or (math.isnan(m.value) and math.isnan(n.value))))


def test_stopped_in_the_middle(clips, monkeypatch, tmp_path):
    seen = []

    def counted(clip, **options):
        if len(seen) == 2 and not stopped: raise KeyboardInterrupt
        seen.append(clip.name)
        return fake_takes(clip)
    metrics, stopped = pick_metrics(), []
    monkeypatch.setattr(comparison, "all_takes", counted)
    with pytest.raises(KeyboardInterrupt): measure_clips(clips, EVERY, metrics, tmp_path, "a")
    stopped.append(True)
    resumed = measure_clips(clips, EVERY, metrics, tmp_path, "a")
    assert seen == [clip.name for clip in clips]
    whole = measure_clips(clips, EVERY, metrics)
    assert all(torch.equal(a[s][k].nan_to_num(-7), b[s][k].nan_to_num(-7)) for a, b in zip(resumed, whole)
               for s in b for k in b[s])
    seen.clear()
    measure_clips(clips[:1], EVERY, metrics, tmp_path, "another experiment")
    assert seen == [clips[0].name]


def test_one_direction_and_frame_is_the_ordinary_distance():
    x, y = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0)).double()
    assert (set_distance(x[:, None], y[:, None, None], "d", 0).value
            == pytest.approx(compare_sets(x, y, by=Extractor("random", None, "", ""), resamples=0).value))


def test_published_networks_get_their_names_and_quirks(clips, fake):
    """Stand-ins called as the published ones; LPIPS gets [0, 1] as the released program feeds it, and the
    curves do not."""
    seen = []

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, y):
            seen.append(float(x.min()))
            return (x - y).abs().mean(1, keepdim=True)
    flat = lambda clip: clip.double().mean((2, 3, 4)) if clip.ndim == 5 else clip.double().mean((2, 3))
    named = lambda name, compute: Extractor(name, compute, "none", "-1..1", "a" * 64, True)
    i3d = lambda batch: flat(batch).mean(1, keepdim=True)
    raft = Extractor("raft", lambda a, b: torch.zeros(len(a), 2, *a.shape[-2:]), "none", "-1..1", "a" * 64,
                     True)
    metrics = MetricNetworks(named("lpips", Net()), named("inception", flat), named("i3d", i3d), raft)
    assert metrics.names == {"LPIPS": "LPIPS", "FID": "FID", "FVD": "FVD"}
    many = [RealClip(c.name, c.kind, c.frames.repeat(4, 1, 1, 1), c.masks, True) for c in clips]
    rows = measure_clips(many, EVERY, metrics)
    assert min(seen) < -0.5 and any(v >= 0 for v in seen)
    found = {m.protocol["metric"]: m.protocol for _, _, m in against_real(rows, metrics, resamples=0)}
    assert found["motion, half-widths a frame x 10^-3"]["flow"] == "raft"
    assert (found["LPIPS"]["paper_comparable"] and found["LPIPS"]["preset"] == "released"
            and {"FID", "FVD", "SSIM"} <= set(found))


def test_a_sky_without_land_and_a_land_without_sky():
    photo, breeze = torch.rand(1, 3, 24, 24), Homography.clock("3h", 1.0)
    for control in CONTROLS.values():
        moved = control(photo, torch.zeros(1, 1, 24, 24), breeze, torch.tensor([0.0, 30.0]))
        torch.testing.assert_close(moved[:1], photo, atol=1e-5, rtol=0)
        assert (moved[1] - photo[0]).abs().mean() > 0.05
        assert torch.equal(control(photo, torch.ones(1, 1, 24, 24), breeze, torch.tensor([30.0])), photo)


def test_folders_that_cannot_be_compared(tmp_path, clips):
    write_video(from_uint8(clips[0].frames), tmp_path / "sky_a_1.mp4", 30)
    with pytest.raises(InputError, match="at least two"): folder_clips(tmp_path)
    (tmp_path / "notes.txt").write_text("no clip")
    write_video(from_uint8(clips[1].frames), tmp_path / "urban_b_2.mp4", 30)
    with pytest.raises(InputError, match="frames"): folder_clips(tmp_path, last=99)
    assert [c.kind for c in folder_clips(tmp_path, side=32, last=2, every=1)] == ["sky", "urban"]


def test_a_result_without_curves_has_none(tmp_path):
    save_result("a5_invert", "cpu", table=pd.DataFrame(
        {"method": ["EO"], "condition": "", "metric": "SSIM", "value": [0.9]}), output=tmp_path)
    assert (curves_of("a5_invert", tmp_path).empty
            and list(measured("a5_invert", tmp_path).columns) == ["method", "condition", "metric", "value"])
