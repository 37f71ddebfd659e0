"""Data: batches are pure functions of the generator, pairs are what they say, bad files are listed, killed
work goes on."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from deeplandscape import media
from deeplandscape.data import batches, prepare as prepare_module
from deeplandscape.data import journal as journal_module, sources as sources_module
from deeplandscape.core import InputError
from deeplandscape.data.store import Store
from deeplandscape.data.batches import crop_pair_batch, pair_batch, still_batch
from deeplandscape.data.prepare import prepare_store

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
    media.write_video(frames, top / "film.mp4")
    media.write_video(frames[:1], top / "still.mp4")
    (top / "broken.mp4").write_bytes(b"nothing like a video")
    return top


@pytest.fixture(scope="module")
def store(material, tmp_path_factory):
    clips = [material / "series", material / "film.mp4", material / "broken.mp4", material / "still.mp4"]
    return prepare_store(tmp_path_factory.mktemp("store"), material / "photos", clips, scenes=5,
                         resolutions=LEVELS, workers=2)


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
    pairs = media.to_uint8(pair_batch(store, 32, 400, generator(0))).float()
    for pair in pairs:
        (r0, r1), (g0, g1) = pair[:, 0].mean((1, 2)), pair[:, 1].mean((1, 2))
        assert r0 == r1 and abs(g0 - g1) > 15, "one clip, distinct frames"
        assert torch.equal(pair[0, 2], pair[1, 2]), "same crop, same flip"
        seen.add((round((r0.item() - 20) / 40),
                  *sorted((round((g0.item() - 10) / 20), round((g1.item() - 10) / 20)))))
    assert ({c for c, _, _ in seen} == {0, 1, 2}
            and {b - a for _, a, b in seen} >= set(range(1, 12))), "any distance"


def test_flips_and_crops_vary(store):
    blue = still_batch(Store(store.path, stills="clips"), 32, 300, generator(2))[:, 2]
    slope = blue[:, :, -1].mean(1) - blue[:, :, 0].mean(1)
    assert 0.2 < (slope > 0).float().mean() < 0.8
    assert len(set(blue[:, 0, 0].tolist())) > 5


def test_crop_pairs_are_one_frame_a_quarter_apart(material, tmp_path):
    store = prepare_store(tmp_path / "s", clips=material / "series", resolutions=(16, 32))
    narrow = 0
    for resolution in (16, 32):
        pairs = media.to_uint8(crop_pair_batch(store, resolution, 300, generator(3))).float()
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


@given(st.integers(8, 300), st.integers(8, 300),
       st.lists(st.floats(0, 1, exclude_max=True), min_size=10, max_size=10))
def test_windows_lie_inside_and_apart(h, w, u):
    resolution = min(h, w)
    side, (a, b) = batches._windows(h, w, resolution, u)
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
    assert set(why) == photos | {"broken.mp4", "still.mp4", "series/s0/99.png", "series/alone"}
    assert "3 x 3" in why["photos/three.png"] and "two frames" in why["still.mp4"]
    assert store.info["photos"] == 60 and store.info["clips"] == 4 and store.info["scenes"] == 5
    assert all(str(store.path.parent) not in text for text in why.values())


def test_levels_keep_the_aspect_and_nothing_is_enlarged(store):
    table = store.tables["photos"]
    names = {i["name"]: k for k, i in enumerate(table.items)}
    assert table.size[16][names["photos/0.png"]].tolist() == [16, 24]
    assert table.size[16][names["photos/deeper/1.png"]].tolist() == [24, 16]
    assert table.size[16][names["photos/deeper/3.png"]].tolist() == [16, 32], "a panorama is cut to 2 : 1"
    assert (names["photos/4.png"] not in table.there(32)
            and names["photos/4.png"] in table.there(16)), "20 px is not 32"
    for r in LEVELS:
        for k in table.there(r):
            assert min(table.read(r, k).shape[:2]) == r


def test_validation_is_never_drawn(tmp_path):
    (tmp_path / "p").mkdir()
    held = 0
    for k in range(200):
        name = f"p/{k}.png"
        held += sources_module.is_held_out(name)
        tone = 255 if sources_module.is_held_out(name) else 0
        Image.new("RGB", (16, 16), (tone,) * 3).save(tmp_path / name)
    store = prepare_store(tmp_path / "s", tmp_path / "p", resolutions=(8,))
    assert 0 < held < 30 and store.stills("val") == held and store.stills("train") == 200 - held
    assert (still_batch(store, 8, 1000, generator(0)) == -1).all()
    assert (still_batch(store, 8, 100, generator(0), split="val") == 1).all()
    assert (batches.centre_stills(store, 8) == 1).all() and len(batches.centre_stills(store, 8)) == held
    with pytest.raises(InputError):
        still_batch(store, 8, 1, generator(0), split="test")


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind, after", [("photos", 1), ("clips", 2), ("scenes", 1)])
def test_killed_work_goes_on_and_gives_the_same_bytes(material, store, tmp_path, monkeypatch, kind, after):
    clips = [material / "series", material / "film.mp4", material / "broken.mp4", material / "still.mp4"]
    prepare = lambda: prepare_store(tmp_path / "s", material / "photos", clips, scenes=20, resolutions=LEVELS,
                                    workers=2)
    commit, count = journal_module._Writer.commit, [0]

    def stop(shelf):
        if shelf.path.stem == kind:
            if count[0] == after:
                for file in shelf.files.values():
                    file.flush()  # bytes are on the disk, the journal does not know
                raise Stop
            count[0] += 1
        commit(shelf)

    monkeypatch.setattr(prepare_module, "_chunks",
                        lambda items, size, chunks=prepare_module._chunks: chunks(items, min(size, 16)))
    monkeypatch.setattr(journal_module._Writer, "commit", stop)
    with pytest.raises(Stop):
        prepare()
    with pytest.raises(InputError, match="not a finished store"):
        Store(tmp_path / "s")
    monkeypatch.setattr(journal_module._Writer, "commit", commit)
    (tmp_path / "s" / f"{kind}.jsonl").open("a").write('{"name": "half a li')
    prepare()
    whole = prepare_store(tmp_path / "w", material / "photos", clips, scenes=20, resolutions=LEVELS,
                          workers=1)
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
    wide = Image.fromarray(rng.integers(0, 255, (24, 80, 3),
                                        dtype=np.uint8)).resize((800, 240), Image.Resampling.NEAREST)
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
    first, last = (store.tables["clips"].read(8, 0, f)[..., 1].mean()
                   for f in (0, store.clips[0]["frames"] - 1))
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
    with pytest.raises(InputError, match="nothing to train on"):
        prepare_store(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing to train on"):
        prepare_store(tmp_path / "b", photos=tmp_path / "empty")
    with pytest.raises(InputError, match="check the name"):
        prepare_store(tmp_path / "c", photos=tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a finished store"):
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
    assert (store.info["photos"] == 60
            and json.loads((tmp_path / "s" / "store.json").read_text())["photos"] == 60)


PREPARE = ("import sys; from deeplandscape.data.prepare import prepare_store; "
           "prepare_store(sys.argv[1], photos=sys.argv[2], clips=sys.argv[3], scenes=12, resolutions=(8, "
           "16, 32), workers=2)")


def in_a_process(program, *arguments, before=()):
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(media.__file__).parents[1]))
    return subprocess.Popen([*before, sys.executable, "-c", program, *map(str, arguments)], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_kill_9_at_any_moment_leaves_no_trace(material, tmp_path):
    (tmp_path / "p").mkdir()
    for k in range(400):
        coded(k % 6, k % 12).save(tmp_path / "p" / f"{k}.png")
    shutil.copytree(material / "series", tmp_path / "c")
    program = (PREPARE, tmp_path / "s", tmp_path / "p", tmp_path / "c")
    # in the middle of the photographs, among the scenes
    for name, enough in (("photos_32.u8", 400_000), ("scenes_8.u8", 1)):
        running, file = in_a_process(*program), tmp_path / "s" / name
        while running.poll() is None and not (file.exists() and file.stat().st_size >= enough):
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, running.stdout.read()
        with pytest.raises(InputError, match="not a finished store"):
            Store(tmp_path / "s")
    assert in_a_process(*program).wait() == 0
    whole = prepare_store(tmp_path / "w", tmp_path / "p", tmp_path / "c", scenes=12, resolutions=(8, 16, 32))
    names = sorted(f.name for f in whole.path.iterdir())
    assert names == sorted(f.name for f in (tmp_path / "s").iterdir())
    assert all((whole.path / n).read_bytes() == (tmp_path / "s" / n).read_bytes() for n in names)


def test_a_disk_that_is_really_full(tmp_path):
    disk, photos = tmp_path / "disk", tmp_path / "p"
    disk.mkdir(), photos.mkdir()
    for k in range(300):
        coded(k % 6, k % 12).save(photos / f"{k}.png")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)],
                      capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        with pytest.raises(InputError, match="disk is full"):
            prepare_store(disk / "s", photos, resolutions=LEVELS)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = prepare_store(disk / "s", photos, resolutions=LEVELS)
        whole = prepare_store(tmp_path / "w", photos, resolutions=LEVELS)
        assert all((again.path / f.name).read_bytes() == f.read_bytes() for f in whole.path.iterdir())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_memory_does_not_grow_with_the_pictures(tmp_path, monkeypatch):
    picture = coded(1, 1)
    monkeypatch.setattr(prepare_module, "open_photo", lambda path, short_side: picture)
    peaks = {}
    for count in (500, 2500):
        folder = tmp_path / f"p{count}"
        for k in range(count):
            if k % 500 == 0:
                (folder / f"{k:05d}").mkdir(parents=True)
            (folder / f"{k // 500 * 500:05d}" / f"a photograph with a long name, number {k:06d}.jpg").touch()
        tracemalloc.start()
        prepare_store(tmp_path / f"s{count}", folder, resolutions=LEVELS, workers=1)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    growth = (peaks[2500] - peaks[500]) / 2000
    assert growth < 250, f"{growth:.0f} bytes per file: a million files would need {growth / 1e3:.1f} GB"


def test_two_folders_of_the_same_name(tmp_path):
    for place, tone in (("a/photos", 50), ("b/photos", 200)):
        (tmp_path / place / "deep").mkdir(parents=True)
        for k in range(5):
            Image.new("RGB", (20, 20), (tone,) * 3).save(tmp_path / place / "deep" / f"{k}.png")
            Image.new("RGB", (20, 20), (tone + k,) * 3).save(tmp_path / place / f"{k}.png")
    a, b = tmp_path / "a/photos", tmp_path / "b/photos"
    both = prepare_store(tmp_path / "both", [a, b, a / "deep", str(b) + "/"], [a, b], resolutions=(8,))
    assert both.info["photos"] == 20 and both.info["clips"] == 4, "nothing is lost, nothing comes twice"
    assert len({i["name"] for i in both.tables["photos"].items}) == 20
    one = prepare_store(tmp_path / "one", a, resolutions=(8,))
    assert one.info["photos"] == 10 and prepare_store(one.path, b, resolutions=(8,)).info["photos"] == 20
    assert prepare_store(one.path, [b, a], resolutions=(8,)).info["photos"] == 20
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert (prepare_store(one.path, tmp_path / "moved/photos", resolutions=(8,)).info["photos"]
            == 20), "the folder only moved"


def test_clips_deep_in_folders_keep_their_names(material, tmp_path):
    for place in ("x/day", "y/day"):
        shutil.copytree(material / "series" / "s0", tmp_path / "c" / place)
        shutil.copy(material / "film.mp4", tmp_path / "c" / place.split("/")[0] / "film.mp4")
        shutil.copy(material / "photos" / "0.png", tmp_path / "c" / place.split("/")[0] / "cover.png")
    store = prepare_store(tmp_path / "s", clips=tmp_path / "c", resolutions=(8,))
    assert sorted(c["name"] for c in store.clips) == ["c/x/day", "c/x/film.mp4", "c/y/day", "c/y/film.mp4"]


def test_links_in_a_circle_end(material, tmp_path):
    shutil.copytree(material / "photos" / "deeper", tmp_path / "p")
    (tmp_path / "p" / "again").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    store = prepare_store(tmp_path / "s", tmp_path / "p", resolutions=(8,))
    assert store.info["photos"] == 30 and [s["name"] for s in store.skipped] == ["p/gone.png"]


@pytest.mark.parametrize("version, advice", [(0, "older"), (None, "older"), (99, "newer")])
def test_stores_of_other_versions(store, tmp_path, version, advice):
    shutil.copytree(store.path, tmp_path / "s")
    for name in ("store.json", "photos.jsonl"):
        first, *rest = ((tmp_path / "s" / name).read_text().split("\n") if name != "store.json"
                        else [(tmp_path / "s" / name).read_text()])
        changed = ({k: v for k, v in json.loads(first).items() if k != "version"}
                   | ({} if version is None else dict(version=version)))
        (tmp_path / "s" / name).write_text("\n".join([json.dumps(changed), *rest]))
        with pytest.raises(InputError, match=f"made by an? {advice} deeplandscape"):
            Store(tmp_path / "s")
    with pytest.raises(InputError, match=f"made by an? {advice} deeplandscape"):
        prepare_store(tmp_path / "s", scenes=1, photos=tmp_path, resolutions=LEVELS)


def test_damaged_photographs_of_every_kind(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    for suffix in ("jpg", "png", "webp"):
        noise.save(folder / f"good.{suffix}")
        whole = (folder / f"good.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[:len(whole) // 2])
        (folder / f"empty.{suffix}").touch()
    noise.save(folder / "moving.webp", save_all=True, append_images=[noise.rotate(90)] * 3)
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "folder.jpg").mkdir()
    store = prepare_store(tmp_path / "s", folder, resolutions=(8,))
    assert (sorted(i["name"] for i in store.tables["photos"].items)
            == [f"p/{n}" for n in ("good.jpg", "good.png", "good.webp", "moving.webp")])
    assert sorted(s["name"] for s in store.skipped) == sorted(
        ["p/phone.heic"] + [f"p/{n}.{s}" for n in ("cut", "empty") for s in ("jpg", "png", "webp")])
    shutil.copy(folder / "good.jpg", folder / "cut.jpg")  # mended
    mended = prepare_store(tmp_path / "s", folder, resolutions=(8,))
    assert mended.info["photos"] == 5 and "p/cut.jpg" not in {s["name"] for s in mended.skipped}
    before = {f.name: f.read_bytes() for f in mended.path.iterdir()}
    prepare_store(tmp_path / "s", folder, resolutions=(8,))
    assert before == {f.name: f.read_bytes() for f in mended.path.iterdir()}


def test_what_may_not_be_read_is_left_out_until_it_may(tmp_path):
    # the administrator may read all
    obey = [] if os.geteuid() else ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    if obey and (not shutil.which("setpriv") or subprocess.run([*obey, "true"]).returncode):
        pytest.skip("needs an ordinary user, or the right to become one")
    with tempfile.TemporaryDirectory() as top:
        for place in ("p/open", "p/closed", "c/closed", "c/open"):
            (Path(top) / place).mkdir(parents=True)
            for k in range(3):
                coded(k, k).save(Path(top) / place / f"{k}.png")
        os.chmod(Path(top) / "p" / "open" / "0.png", 0)
        for place in ("p/closed", "c/closed"):
            os.chmod(Path(top) / place, 0)
        program = (PREPARE.replace("scenes=12, ", ""), f"{top}/s", f"{top}/p", f"{top}/c")
        running = in_a_process(*program, before=obey)
        assert running.wait() == 0, running.stdout.read()
        why = {s["name"]: s["why"] for s in json.loads(Path(top, "s", "store.json").read_text())["skipped"]}
        assert (set(why) == {"p/closed/", "p/open/0.png", "c/closed/"}
                and "permission denied" in why["p/closed/"])
        for place in ("p/closed", "c/closed", "p/open/0.png"):
            os.chmod(Path(top) / place, 0o755)
        running = in_a_process(*program, before=obey)
        assert running.wait() == 0, running.stdout.read()
        info = json.loads(Path(top, "s", "store.json").read_text())
        assert info["photos"] == 6 and info["clips"] == 2 and not info["skipped"]


def test_videos_of_every_kind(tmp_path):
    films = tmp_path / "c"
    films.mkdir()
    frames = torch.stack([torch.from_numpy(np.array(coded(3, f, 48, 80))).permute(2, 0, 1) for f in range(6)])
    media.write_video(frames, films / "plain.mp4", fps=6)
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
    subprocess.run([*ffmpeg, "-display_rotation", "90", "-i", films / "plain.mp4", "-c", "copy",
                    films / "upright.mp4"], check=True)
    source = ["-f", "lavfi", "-i", "testsrc=size=81x47:rate=5:duration=1"]
    subprocess.run([*ffmpeg, *source, "-pix_fmt", "yuv444p", "-c:v", "libx264", films / "odd.mp4"],
                   check=True)
    subprocess.run([*ffmpeg, *source, "-c:v", "libvpx-vp9", films / "odd.webm"], check=True)
    still = [coded(2, f, 40, 50) for f in range(5)]
    for suffix in ("gif", "webp"):
        still[0].save(films / f"moving.{suffix}", save_all=True, append_images=still[1:], duration=100)
    store = prepare_store(tmp_path / "s", clips=films, resolutions=(8, 32, 64))
    assert not store.skipped
    size = {c["name"].split("/")[1]: c["size"] for c in store.clips}
    assert size == {"plain.mp4": [48, 80], "upright.mp4": [80, 48], "odd.mp4": [47, 81], "odd.webm": [47, 81],
                    "moving.gif": [40, 50], "moving.webp": [40, 50]}
    assert (len(store.tables["clips"].there(32)) == 6
            and not len(store.tables["clips"].there(64))), "nothing is enlarged"


def test_frames_of_differing_sizes(tmp_path):
    for k in range(8):
        (tmp_path / "c" / "mixed").mkdir(parents=True, exist_ok=True)
        coded(1, k, *((40, 60) if k != 3 else (60, 40))).save(tmp_path / "c" / "mixed" / f"{k}.png")
    store = prepare_store(tmp_path / "s", clips=tmp_path / "c", resolutions=(8,))
    assert (store.clips[0]["frames"] == 7
            and store.skipped == [dict(name="c/mixed/3.png", why="a frame of another size")])


def test_raw_folders_are_prepared_once_and_checked(material, store, tmp_path):
    sources = [f"{material / 'photos'}:3", str(store.path)]
    (first, weight), (second, other) = batches.open_sources(sources, "photos", tmp_path / "store", LEVELS)
    assert (weight, other) == (3, 1) and second.path == store.path and first.path.parent == tmp_path / "store"
    assert first.info["photos"] == 60 and len(first.skipped) == 3
    before = {f: f.read_bytes() for f in first.path.iterdir()}
    batches.open_sources(sources, "photos", tmp_path / "store", LEVELS)
    assert before == {f: f.read_bytes() for f in first.path.iterdir()}
    with pytest.raises(InputError, match="at most 32 px"):
        batches.ensure_store(material / "photos", "photos", tmp_path / "store", (8, 16, 32, 64))
    with pytest.raises(InputError, match="not for 64 px"):
        batches.ensure_store(store.path, "clips", tmp_path / "store", (8, 64))
    with pytest.raises(InputError, match="no clips"):
        batches.ensure_store(first.path, "clips", tmp_path / "store", (8,))
    with pytest.raises(InputError, match="check the name"):
        batches.ensure_store(tmp_path / "nowhere", "photos", tmp_path / "store")
    os.remove(first.path / "store.json")
    with pytest.raises(InputError, match="not a finished store"):
        batches.ensure_store(first.path, "photos", tmp_path / "store", LEVELS)
    assert (batches.ensure_store(material / "photos", "photos", tmp_path / "store", LEVELS).path
            == first.path), "an interrupted one is finished"


def test_several_processes_prepare_one_store(material, tmp_path):
    running = [in_a_process(PREPARE, tmp_path / "s", material / "photos", material / "series")
               for _ in range(2)]
    output = [(process.wait(), process.stdout.read()) for process in running]
    assert [code for code, _ in output] == [0, 0], output
    whole = prepare_store(tmp_path / "w", material / "photos", material / "series", scenes=12,
                          resolutions=LEVELS)
    assert all((tmp_path / "s" / f.name).read_bytes() == f.read_bytes() for f in whole.path.iterdir())


def test_a_training_from_a_folder_that_nobody_prepared(material, tmp_path):
    from typer.testing import CliRunner
    from deeplandscape.cli import app
    tiny = ["generator.resolution=16", "generator.channels=(8,8,8)", "generator.z_dim=16",
            "generator.w_dim=16", "generator.mapping_layers=2",
            "fade_images=((8,8),)", "stable_images=((8,8),)", "batch=((4,4),)", "total_batches=None"]
    settings = [word for text in tiny for word in ("--set", text)]
    raw = ["--photos", f"{material / 'photos'}:2", "--clips", str(material / "series")]
    done = CliRunner().invoke(app, ["train", "-o", str(tmp_path / "out"), *raw, *settings])
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "60 photos" in done.output and "left out: photos/cut.jpg" in done.output
    assert ((tmp_path / "out" / "generator.safetensors").exists()
            and len(list((tmp_path / "out" / "store").iterdir())) == 2)
    assert not (tmp_path / "out" / "scenes").exists(), "nothing is rendered where there are clips"
    done = CliRunner().invoke(app, ["train", "-o", str(tmp_path / "big"), *raw])
    assert isinstance(done.exception, InputError) and "train at a lower resolution" in str(done.exception)
    assert not list((tmp_path / "big").glob("checkpoint*"))
