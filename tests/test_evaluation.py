"""Folders, presets and ground truth: what an evaluation must not depend on, and what it must find."""
import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from deeplandscape.cli import app
from deeplandscape.core import InputError
from deeplandscape.media import save_image, write_video
from deeplandscape.metrics.truth import (
    flow_error, leakage, light_agreement, structure_distance, wind_asked_for, wind_error)
from deeplandscape.statistics import rank_correlation
from deeplandscape.video.motion import Homography
from deeplandscape.metrics.protocols import (
    compare_pictures, evaluate_pictures, evaluate_videos, folder_entries, preset_of, PRESETS, read_clips,
    read_pictures, static_mask)


def pictures(n, size=32, seed=0):
    return F.interpolate(torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)),
                         size=(size, size), mode="bicubic").tanh()


@pytest.fixture
def folders(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        for k, image in enumerate(pictures(4, 32, seed)): save_image(image, tmp_path / name / f"{k}.png")
    return tmp_path


# folders

def test_neither_order_nor_names_nor_threads_matter(folders):
    a, b = (folder_entries(folders / n)[1] for n in "ab")
    want = evaluate_pictures(b, a)
    (folders / "c").mkdir()
    for k, p in enumerate(reversed(b)): shutil.copy(p, folders / "c" / f"other{k}.png")
    got = evaluate_pictures(folder_entries(folders / "c")[1], a)
    assert ([(m.value, m.low) for m in got] == [(m.value, m.low) for m in want[:2]] and len(want) == 4
            and len(got) == 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for m, n in zip(evaluate_pictures(b, a), want):
            assert m.value == pytest.approx(n.value, rel=1e-4, abs=1e-6)
    finally: torch.set_num_threads(before)


def test_a_codec_is_part_of_the_protocol(tmp_path):
    "The same frames by way of PNG and by way of mp4 differ, and the protocol says which way they came."
    clips = [torch.stack([pictures(1, 64, s)[0].roll(t, -1) for t in range(10)]) for s in range(4)]
    for name in ("png", "mp4"):
        for k, clip in enumerate(clips):
            if name == "mp4":
                (tmp_path / name).mkdir(exist_ok=True), write_video(clip, tmp_path / name / f"{k}.mp4", 30)
            else:
                (tmp_path / name / f"{k}").mkdir(parents=True)
                for t, frame in enumerate(clip): save_image(frame, tmp_path / name / f"{k}" / f"{t:03d}.png")
    found = {name: evaluate_videos(folder_entries(tmp_path / name)[1][:2],
                                   folder_entries(tmp_path / name)[1][2:], frames=10)
                                   for name in ("png", "mp4")}
    assert found["png"][0].protocol["files"] == "frames" and found["mp4"][0].protocol["files"] == "mp4"
    assert found["png"][0].value != found["mp4"][0].value and found["png"][0].protocol["frames"] == 10
    speed = [m for m in found["png"] if m.protocol["metric"] == "real: flow, px per frame"][0]
    assert 0.5 < speed.value < 1.5 or math.isnan(speed.value)


def test_reading(tmp_path, folders):
    save_image(pictures(1, 40)[0][:, :20], tmp_path / "wide.png")
    assert read_pictures([tmp_path / "wide.png"], 16).shape == (1, 3, 16, 16)
    with pytest.raises(InputError, match="4 frames"): read_clips([folders / "a"], 16, 5)
    with pytest.raises(InputError, match="no folder"): folder_entries(folders / "none")


def test_the_command(folders):
    run = lambda *more: CliRunner().invoke(app,
                                           ["evaluate", str(folders / "b"), str(folders / "a"), "--device",
                                            "cpu", *more])
    done = run("-o", str(folders / "found.json"), "--preset", "released", "--seed", "3")
    assert done.exit_code == 0 and "paper-comparable: no" in done.output
    found = json.loads((folders / "found.json").read_text())
    assert (found[0]["protocol"]["preset"] == "released" and found[0]["protocol"]["contrast"] == 0.5
            and found[0]["protocol"]["seed"] == 3)
    wanted = {"metric", "extractor", "weights", "resize", "range", "n_real", "n_fake", "seed", "read",
              "files"}
    assert wanted <= set(found[0]["protocol"]) and found[0]["low"] <= found[0]["value"] <= found[0]["high"]
    for more in (["--extractor", "i3d"], ["--preset", "official"], ["-o", str(folders / "x.txt")]):
        assert isinstance(run(*more).exception, InputError)


# presets

def test_each_departure_alone_and_all_together():
    x, y = pictures(3, 48), pictures(3, 48, 1)
    mask = torch.zeros(1, 1, 48, 48); mask[..., 24:, :] = 1
    clean, released = (compare_pictures(x, y, mask, "ssim", p).value for p in PRESETS)
    assert clean < 0.6 and released > max(clean, 0.45)                      # the empty half counts as perfect
    a, b = (compare_pictures(x, y, mask, "perceptual", p).value for p in PRESETS)
    assert b < a


def test_the_sea_is_land_for_the_released_program():
    p = torch.tensor([[0.1, 0.2, 0.7], [0.1, 0.7, 0.2], [0.7, 0.2, 0.1]]).t()[None, :, :, None]
    names = ("mountain, mount", "sky", "sea")
    assert (static_mask(p, names).flatten().tolist() == [0, 0, 1]
            and static_mask(p, names, "released").flatten().tolist() == [1, 0, 1])
    assert static_mask(p, ("a", "b", "c")).min() == 1 and static_mask(p, ("sky", "sea", "lake")).max() == 0
    assert preset_of("released").flow_side == 1024


# ground truth

@pytest.mark.parametrize("hour", ["3h", "12h", "7h"])
def test_the_wind_is_what_the_maps_do(hour):
    "A dot of the first frame is found where the field says, in the sky and in its mirror."
    wind, size = Homography.clock(hour, horizon=0.5, speed=6), 96
    for y, x in ((30, 48), (20, 40), (70, 50)):
        dot = torch.zeros(1, 1, size, size); dot[..., y - 2:y + 3, x - 2:x + 3] = 1
        moved = wind.warp(dot, torch.tensor([3.0]))[0, 0, 0]
        rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        found = torch.stack([(moved * columns).sum(), (moved * rows).sum()]) / moved.sum()
        asked = torch.tensor([x, y]) + wind_asked_for(wind, (size, size), 3)[:, y, x]
        assert (found - asked).norm() < 0.7


def test_end_point_error_by_hand():
    truth, flow = torch.zeros(2, 4, 4), torch.zeros(2, 2, 4, 4)
    truth[0], flow[:, 1], flow[1] = 4, 3, torch.tensor([4.0, 3.0]).view(2, 1, 1)
    e = flow_error(flow, truth)
    assert e["epe"] == pytest.approx((5 + 3) / 2) and e["asked"] == 4 and e["relative"] == 1
    left = torch.zeros(1, 1, 4, 4); left[..., :2] = 1
    assert flow_error(flow[1:], truth, left)["epe"] == 3


def test_standing_still_errs_by_the_motion():
    wind = Homography.clock("3h", horizon=1.0, speed=5)
    found = wind_error([pictures(1, 64).expand(3, -1, -1, -1)] * 2, [wind, wind])
    assert found["relative"].value == pytest.approx(1, abs=0.05) and found["epe"].protocol["items"] == 2


def test_ranks():
    assert (rank_correlation([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx(1)
            and rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1))
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    fade = torch.linspace(-1, 1, 6).view(-1, 1, 1, 1).expand(6, 3, 8, 8)
    assert light_agreement([fade, fade], [torch.arange(6), torch.arange(6)]).value == pytest.approx(1)


def test_leakage_of_known_generators():
    """Land from the static seed, light from the dynamic one: no leak; both from the static one: all light
    leaks."""
    land = lambda s: torch.cat([pictures(1, 32, int(k)) for k in s]) * 0.3
    light = lambda s: torch.rand(len(s), 1, 1, 1, generator=torch.Generator().manual_seed(int(s.sum()))) - 0.5
    mask = lambda s: torch.ones(len(s), 1, 32, 32)
    good = leakage(lambda st, dyn: (land(st) + light(dyn), mask(st)), count=6, batch=3)
    bad = leakage(lambda st, dyn: (land(dyn) + light(st), mask(st)), count=6, batch=3)
    assert (good["land"].value < 0.02 and good["light"].value < 0.5
            and bad["land"].value > 50 * good["land"].value + 1)
    assert math.isnan(good["land"].low) and math.isnan(good["land"].high)   # six are too few
    more = leakage(lambda st, dyn: (land(st) + light(dyn), mask(st)), count=18, batch=9)
    assert more["land"].low <= more["land"].value <= more["land"].high
    x = pictures(2, 32)
    assert structure_distance(x, x * 0.5 + 0.2, mask(x)).max() < 0.05
