"""Data: batches are pure functions of the generator, pairs are what they say, bad files are listed, killed work goes on."""
import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from deeplandscape import core, data
from deeplandscape.core import InputError
from deeplandscape.data import Store, crop_pair_batch, pair_batch, prepare_store, still_batch

LEVELS = (8, 16, 32)


def coded(clip, frame, h=40, w=60):
    "A picture that says which clip and frame it is (red, green) and where each column is (blue)."
    a = np.zeros((h, w, 3), np.uint8)
    a[..., 0], a[..., 1] = 40 * clip + 20, 20 * frame + 10
    a[..., 2] = np.linspace(0, 255, w) if w >= h else np.linspace(0, 255, h)[:, None]
    return Image.fromarray(a)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    top = tmp_path_factory.mktemp("material")
    (top / "photos" / "deeper").mkdir(parents=True)
    for k in range(60):
        size = [(40, 60), (60, 40), (40, 40), (40, 300), (20, 20)][k % 5]
        coded(k % 6, k % 12, *size).save(top / "photos" / ("deeper" if k % 2 else ".") / f"{k}.png")
    (top / "photos" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (top / "photos" / "tiny.png").write_bytes(b"")
    Image.new("RGB", (3, 3)).save(top / "photos" / "three.png")
    (top / "photos" / "notes.txt").write_text("no picture")
    for c, (h, w) in enumerate([(40, 60), (60, 40), (40, 40)]):
        (top / "series" / f"s{c}").mkdir(parents=True)
        for f in range(12):
            coded(c, f, h, w).save(top / "series" / f"s{c}" / f"{f}.png")
    (top / "series" / "s0" / "99.png").write_bytes(b"damaged")
    (top / "series" / "alone").mkdir()
    coded(0, 0).save(top / "series" / "alone" / "0.png")
    frames = torch.stack([torch.from_numpy(np.array(coded(4, f))).permute(2, 0, 1) for f in range(12)])
    core.write_video(frames, top / "film.mp4")
    core.write_video(frames[:1], top / "still.mp4")
    (top / "broken.mp4").write_bytes(b"nothing like a video")
    return top


@pytest.fixture(scope="module")
def store(material, tmp_path_factory):
    clips = [material / "series", material / "film.mp4", material / "broken.mp4", material / "still.mp4"]
    return prepare_store(tmp_path_factory.mktemp("store"), material / "photos", clips, scenes=5, resolutions=LEVELS, workers=2)


def generator(seed):
    return torch.Generator().manual_seed(seed)


DRAWS = [still_batch, pair_batch, crop_pair_batch]


@pytest.mark.parametrize("draw", DRAWS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**40), resolution=st.sampled_from(LEVELS), batch=st.integers(1, 7))
def test_batches_are_pure(store, draw, seed, resolution, batch):
    g = generator(seed)
    first, second = draw(store, resolution, batch, g), draw(store, resolution, batch, g)
    again, state = draw(Store(store.path), resolution, batch, h := generator(seed)), h.get_state()
    assert torch.equal(first, again) and torch.equal(second, draw(store, resolution, batch, h))
    assert torch.equal(g.get_state(), h.get_state())
    torch.rand(3), np.random.rand(3)
    h.set_state(state)
    assert torch.equal(second, draw(store, resolution, batch, h))
    assert first.shape == (batch, *((2,) if draw is not still_batch else ()), 3, resolution, resolution)
    assert first.dtype == torch.float32 and first.min() >= -1 and first.max() <= 1


@pytest.mark.parametrize("draw", DRAWS)
def test_every_draw_uses_the_generator_alike(store, draw):
    g = generator(1)
    draw(store, 16, 3, g)
    h = generator(1)
    torch.rand(3, 10, generator=h, dtype=torch.float64)
    assert torch.equal(g.get_state(), h.get_state()), "ten numbers an item, whatever they choose"


def test_pairs_are_two_frames_of_one_clip_in_the_same_crop(material, tmp_path):
    store = prepare_store(tmp_path / "s", clips=material / "series", resolutions=(16, 32))
    seen = set()
    pairs = core.to_uint8(pair_batch(store, 32, 400, generator(0))).float()
    for pair in pairs:
        (r0, r1), (g0, g1) = pair[:, 0].mean((1, 2)), pair[:, 1].mean((1, 2))
        assert r0 == r1 and abs(g0 - g1) > 15, "one clip, distinct frames"
        assert torch.equal(pair[0, 2], pair[1, 2]), "same crop, same flip"
        seen.add((round((r0.item() - 20) / 40), *sorted((round((g0.item() - 10) / 20), round((g1.item() - 10) / 20)))))
    assert {c for c, _, _ in seen} == {0, 1, 2} and {b - a for _, a, b in seen} >= set(range(1, 12)), "any distance"


def test_flips_and_crops_vary(store):
    blue = still_batch(Store(store.path, stills="clips"), 32, 300, generator(2))[:, 2]
    slope = blue[:, :, -1].mean(1) - blue[:, :, 0].mean(1)
    assert 0.2 < (slope > 0).float().mean() < 0.8
    assert len(set(blue[:, 0, 0].tolist())) > 5


def test_crop_pairs_are_one_frame_a_quarter_apart(material, tmp_path):
    store = prepare_store(tmp_path / "s", clips=material / "series", resolutions=(16, 32))
    narrow = 0
    for resolution in (16, 32):
        pairs = core.to_uint8(crop_pair_batch(store, resolution, 300, generator(3))).float()
        for pair in pairs:
            assert (pair[0, :2].mean((1, 2)) - pair[1, :2].mean((1, 2))).abs().max() < 0.6, "one frame"
            along = 0 if pair[0, 2, 0].std() < 2 else 1  # the direction in which blue changes
            means = pair[:, 2].mean((1, 2))
            clip = round((pair[0, 0].mean().item() - 20) / 40)
            length = 1.0 if clip == 2 else 1.5  # of the coded direction over the shorter side
            apart = (means[0] - means[1]).abs() / 255 * length
            narrow += clip == 2
            assert apart > 0.25 - 1.5 / resolution, (clip, along, apart)
            lines = pair[:, 2].mean(1) if along else pair[:, 2].mean(2)
            assert ((lines[0, -1] > lines[0, 0]) == (lines[1, -1] > lines[1, 0])) or not along, "common flip"
    assert narrow > 50


@given(st.integers(8, 300), st.integers(8, 300), st.lists(st.floats(0, 1, exclude_max=True), min_size=10, max_size=10))
def test_windows_lie_inside_and_apart(h, w, u):
    resolution = min(h, w)
    side, (a, b) = data._windows(h, w, resolution, u)
    assert side in (resolution, 3 * resolution // 4)
    for y, x in (a, b):
        assert 0 <= y <= h - side and 0 <= x <= w - side
    apart = max(abs(a[0] - b[0]), abs(a[1] - b[1]))
    assert apart >= resolution / 4 - (side < resolution)


def test_mixtures_follow_their_weights(material, tmp_path):
    stores = []
    for k, tone in enumerate((0, 255)):
        (tmp_path / f"p{k}").mkdir()
        Image.new("RGB", (20, 20), (tone,) * 3).save(tmp_path / f"p{k}" / "train.png")
        stores.append(prepare_store(tmp_path / f"s{k}", tmp_path / f"p{k}", resolutions=(8,)))
    light = still_batch([(stores[0], 1), (stores[1], 3)], 8, 2000, generator(0)).mean((1, 2, 3)) > 0
    assert 0.71 < light.float().mean() < 0.79
    assert (still_batch([(stores[0], 1), (stores[1], 0)], 8, 50, generator(0)) == -1).all()
    for wrong in ([], [(stores[0], 0)], [(stores[0], -1), (stores[1], 2)], [(stores[0], float("nan"))]):
        with pytest.raises(InputError):
            still_batch(wrong, 8, 1, generator(0))


def test_what_was_left_out_is_listed_with_the_reason(store):
    why = {s["name"]: s["why"] for s in store.skipped}
    photos = {f"photos/{n}" for n in ("cut.jpg", "tiny.png", "three.png")}
    assert set(why) == photos | {"broken.mp4", "still.mp4", "series/s0/99.png"}
    assert "3 x 3" in why["photos/three.png"] and "two frames" in why["still.mp4"]
    assert store.info["photos"] == 60 and store.info["clips"] == 4 and store.info["scenes"] == 5
    assert all(str(store.path.parent) not in text for text in why.values())


def test_levels_keep_the_aspect_and_nothing_is_enlarged(store):
    table = store.tables["photos"]
    names = {i["name"]: k for k, i in enumerate(table.items)}
    assert table.at[16][names["photos/0.png"]][:2].tolist() == [16, 24]
    assert table.at[16][names["photos/deeper/1.png"]][:2].tolist() == [24, 16]
    assert table.at[16][names["photos/deeper/3.png"]][:2].tolist() == [16, 32], "a panorama is cut to 2 : 1"
    assert names["photos/4.png"] not in table.there(32) and names["photos/4.png"] in table.there(16), "20 px is not 32"
    for r in LEVELS:
        for k in table.there(r):
            assert min(table.read(r, k).shape[:2]) == r


def test_validation_is_never_drawn(tmp_path):
    (tmp_path / "p").mkdir()
    held = 0
    for k in range(200):
        name = f"p/{k}.png"
        held += data.is_held_out(name)
        tone = 255 if data.is_held_out(name) else 0
        Image.new("RGB", (16, 16), (tone,) * 3).save(tmp_path / name)
    store = prepare_store(tmp_path / "s", tmp_path / "p", resolutions=(8,))
    assert 0 < held < 30 and store.stills("val") == held and store.stills("train") == 200 - held
    assert (still_batch(store, 8, 1000, generator(0)) == -1).all()
    assert (still_batch(store, 8, 100, generator(0), split="val") == 1).all()
    assert (data.centre_stills(store, 8) == 1).all() and len(data.centre_stills(store, 8)) == held
    with pytest.raises(InputError):
        still_batch(store, 8, 1, generator(0), split="test")


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind, after", [("photos", 1), ("clips", 2), ("scenes", 1)])
def test_killed_work_goes_on_and_gives_the_same_bytes(material, store, tmp_path, monkeypatch, kind, after):
    clips = [material / "series", material / "film.mp4", material / "broken.mp4", material / "still.mp4"]
    prepare = lambda: prepare_store(tmp_path / "s", material / "photos", clips, scenes=20, resolutions=LEVELS, workers=2)
    commit, count = data._Shelf.commit, [0]

    def stop(shelf):
        if shelf.journal.stem == kind:
            if (count := stop.count[0]) == after:
                for file in shelf.files.values():
                    file.flush()  # bytes are on the disk, the journal does not know
                raise Stop
            stop.count[0] = count + 1
        commit(shelf)

    stop.count = count
    monkeypatch.setattr(data, "_chunks", lambda items, size, chunks=data._chunks: chunks(items, 16 if size > 100 else size))
    monkeypatch.setattr(data._Shelf, "commit", stop)
    with pytest.raises(Stop):
        prepare()
    with pytest.raises(InputError, match="no finished store"):
        Store(tmp_path / "s")
    monkeypatch.setattr(data._Shelf, "commit", commit)
    (tmp_path / "s" / f"{kind}.jsonl").open("a").write('{"name": "half a li')
    prepare()
    whole = prepare_store(tmp_path / "w", material / "photos", clips, scenes=20, resolutions=LEVELS, workers=1)
    for file in whole.path.iterdir():
        assert file.read_bytes() == (tmp_path / "s" / file.name).read_bytes(), file.name


def test_more_photographs_are_added(material, tmp_path):
    folder = tmp_path / "p"
    shutil.copytree(material / "photos" / "deeper", folder)
    first = prepare_store(tmp_path / "s", folder, resolutions=LEVELS)
    coded(0, 0).save(folder / "zz.png")
    second = prepare_store(tmp_path / "s", folder, resolutions=LEVELS)
    assert second.info["photos"] == first.info["photos"] + 1


def test_a_moving_camera_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    wide = Image.fromarray(rng.integers(0, 255, (24, 80, 3), dtype=np.uint8)).resize((800, 240), Image.Resampling.NEAREST)
    for name, step in (("pan", 20), ("fixed", 0)):
        (tmp_path / "c" / name).mkdir(parents=True)
        for k in range(16):
            frame = np.array(wide.crop((k * step, 0, k * step + 320, 240))).astype(int)
            frame = np.clip(frame * (0.8 + 0.02 * k) + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8)
            Image.fromarray(frame).save(tmp_path / "c" / name / f"{k}.png")
    store = prepare_store(tmp_path / "s", clips=tmp_path / "c", resolutions=(8, 16))
    assert [c["name"] for c in store.clips] == ["c/fixed"] and store.clips[0]["motion"] == 0
    assert [(s["name"], "camera moves" in s["why"]) for s in store.skipped] == [("c/pan", True)]
    kept = prepare_store(tmp_path / "k", clips=tmp_path / "c", resolutions=(8, 16), keep_moving=True)
    assert len(kept.clips) == 2


def test_long_films_are_thinned(material, tmp_path):
    store = prepare_store(tmp_path / "s", clips=material / "series", resolutions=(8,), max_frames=5)
    assert all(2 <= c["frames"] <= 5 for c in store.clips)
    first, last = (store.tables["clips"].read(8, 0, f)[..., 1].mean() for f in (0, store.clips[0]["frames"] - 1))
    assert last - first > 100, "spread over the whole clip"


def test_same_light_pairs_differ_where_things_move(store):
    pairs, static = store.same_light_pairs(32, 40, generator(0))
    assert pairs.shape == (40, 2, 3, 32, 32) and static.shape == (40, 1, 32, 32)
    assert static.min() >= 0 and static.max() <= 1
    again = store.same_light_pairs(32, 40, generator(0))
    assert torch.equal(pairs, again[0]) and torch.equal(static, again[1])
    change = (pairs[:, 0] - pairs[:, 1]).abs().mean(1, keepdim=True)
    assert (change * (1 - static)).sum() / (1 - static).sum() > 5 * (change * static).sum() / static.sum()


def test_stores_that_are_none(material, store, tmp_path):
    with pytest.raises(InputError, match="nothing to learn"):
        prepare_store(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing to learn"):
        prepare_store(tmp_path / "b", photos=tmp_path / "empty")
    with pytest.raises(InputError, match="check the name"):
        prepare_store(tmp_path / "c", photos=tmp_path / "nowhere")
    with pytest.raises(InputError, match="no finished store"):
        Store(tmp_path)
    with pytest.raises(InputError, match="other settings"):
        prepare_store(store.path, photos=material / "photos", resolutions=(8, 64))
    photos = prepare_store(tmp_path / "d", photos=material / "photos", resolutions=(8,))
    for draw in (pair_batch, crop_pair_batch):
        with pytest.raises(InputError, match="no clips"):
            draw(photos, 8, 1, generator(0))
    with pytest.raises(InputError, match="64 px"):
        still_batch(store, 64, 1, generator(0))
    shutil.copytree(store.path, tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "photos_16.u8", 100)
    with pytest.raises(InputError, match="cut short"):
        Store(tmp_path / "cut")


def test_a_full_disk_is_told_and_survived(material, tmp_path, monkeypatch):
    fsync, calls = os.fsync, [0]

    def full(descriptor):
        calls[0] += 1
        if calls[0] > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="disk is full"):
        prepare_store(tmp_path / "s", material / "photos", resolutions=LEVELS)
    monkeypatch.setattr(os, "fsync", fsync)
    store = prepare_store(tmp_path / "s", material / "photos", resolutions=LEVELS)
    assert store.info["photos"] == 60 and json.loads((tmp_path / "s" / "store.json").read_text())["photos"] == 60
