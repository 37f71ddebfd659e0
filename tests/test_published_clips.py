"""The published test clips: exact frames, every kind of loss reported, nothing fetched twice; videos come
from files the test makes."""
import errno
import importlib.util
import json
import os
import shutil
import socket
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from deeplandscape import media
from deeplandscape.data import clips as clips_module
from deeplandscape.cli import main
from deeplandscape.core import InputError
from deeplandscape.data.clips import Clip, cut_clip, fetch_clips, read_clip_list


def numbered(count, h=70, w=100):
    "Frames that say which they are by their brightness."
    return torch.stack([torch.full((3, h, w), 3 * k, dtype=torch.uint8) for k in range(count)])


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    "A folder that stands for the network."
    folder = tmp_path_factory.mktemp("far")
    media.write_video(numbered(70), folder / "long.mp4", fps=10, crf=0)
    media.write_video(numbered(70), folder / "ntsc.mp4", fps=29.97, crf=0)
    media.write_video(numbered(15), folder / "short.mp4", fps=10)
    media.write_video(numbered(40, 40, 60), folder / "small.mp4", fps=10)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return folder


class Fetcher:
    "Copies instead of fetching, and remembers."

    def __init__(self, far): self.far, self.asked = far, []

    def __call__(self, link, place, seconds):
        self.asked.append((link.rpartition("=")[2], seconds))
        return shutil.copy(self.far / f"{link.rpartition('=')[2]}.mp4", place)


def link(name): return f"https://www.youtube.com/watch?v={name}"


def test_each_clip_is_kept_or_reported(far, tmp_path):
    wanted = {"sky": {link("long"): [0, 2], link("short"): [0]},
              "urban": {link("small"): [0], link("gone"): [1]},
              "landscape": {link("broken"): [0], link("long"): [3]}}
    (tmp_path / "list.json").write_text(json.dumps(wanted))
    clips, fetch = read_clip_list(tmp_path / "list.json"), Fetcher(far)
    found = fetch_clips(tmp_path / "out", clips, fetch, size=64, frames=20)
    assert {n for n, why in found.items() if not why} == {"sky_long_0", "sky_long_2", "landscape_long_3"}
    assert "5 frames too early" in found["sky_short_0"] and "60 x 40" in found["urban_small_0"]
    assert "cannot be read" in found["landscape_broken_0"] and "gone.mp4" in found["urban_gone_1"]
    assert fetch.asked[0] == ("long",
                              23) and len(fetch.asked) == 5, "each video once, as long as the last clip needs"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "clips.json", "landscape_long_3.mp4", "sky_long_0.mp4", "sky_long_2.mp4"], "nothing half done is left"
    assert json.loads((tmp_path / "out" / "clips.json").read_text())["clips"] == found
    frames, fps = media.read_video(tmp_path / "out" / "sky_long_2.mp4")
    assert frames.shape == (20, 3, 64, 64) and fps == 30
    np.testing.assert_allclose(frames.float().mean((1, 2, 3)), 3 * np.arange(20, 40), atol=2)
    assert (fetch_clips(tmp_path / "out", clips[:2], None, size=64)
            == {"sky_long_0": None, "sky_long_2": None}), "nothing to fetch"


def test_frames_are_counted_as_in_the_released_program(far):
    first = next(cut_clip(far / "ntsc.mp4", 2, frames=1, size=70))
    assert abs(first.float().mean() - 3 * 58) < 2, "2 s at 29.97 frames a second begin at frame 2 * 29"


def test_the_square_is_the_centre_and_never_enlarged(tmp_path):
    across = np.zeros((64, 128, 3), np.uint8)
    across[:, 32:96] = 200
    media.write_video(torch.from_numpy(across).permute(2, 0, 1)[None].repeat(2, 1, 1, 1), tmp_path / "v.mp4",
                      crf=0)
    for size in (64, 32):
        frame = next(cut_clip(tmp_path / "v.mp4", 0, 2, size))
        assert frame.shape == (3, size, size) and (frame.float() - 200).abs().max() < 12
    with pytest.raises(InputError, match="128 x 64"):
        next(cut_clip(tmp_path / "v.mp4", 0, 2, 65))


def test_a_link_that_stands_twice_counts_once(tmp_path):
    (tmp_path / "l.json").write_text('{"sky": {"%s": [2], "%s": [0, 9]}}' % (link("a"), link("a")))
    assert read_clip_list(tmp_path / "l.json") == [Clip("sky", link("a"), 0), Clip("sky", link("a"), 9)]


def test_a_full_disk_is_no_missing_clip(far, tmp_path, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="disk is full"):
        fetch_clips(tmp_path / "out", [Clip("sky", link("long"), 0)], Fetcher(far), size=64, frames=5)


def test_the_command(far, tmp_path, monkeypatch):
    from deeplandscape.cli import app
    monkeypatch.setattr(clips_module, "YtDlp", lambda: Fetcher(far))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text(json.dumps({"sky": {link("long"): [0], link("gone"): [0]}}))
    monkeypatch.setattr(clips_module.fetch_clips, "__defaults__", (None, 1080, 20))
    done = CliRunner().invoke(app, ["prepare", "test-clips", "--list", "list.json", "--size", "64"])
    assert done.exit_code == 0, done.output
    assert ("1 of 2" in done.output and "sky_gone_0" in done.output
            and (tmp_path / "test-clips" / "sky_long_0.mp4").exists())


def test_offline_and_without_the_extra_it_says_so(tmp_path, monkeypatch, capsys):
    def no(*given, **named): raise OSError("no network")
    (tmp_path / "list.json").write_text(json.dumps({"sky": {link("long"): [0]}}))
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *more: None if name == "yt_dlp" else spec(name, *more))
    for name in ("create_connection", "getaddrinfo"): monkeypatch.setattr(socket, name, no)
    for more, words in (([], "could not be fetched"), (["--list", "list.json"], "pip install"),
                        (["--list", "no.json"], "no list")):
        monkeypatch.setattr(sys, "argv", ["deeplandscape", "prepare", "test-clips", *more])
        with pytest.raises(SystemExit) as stopped: main()
        said = capsys.readouterr().err.strip()
        assert stopped.value.code == 2 and words in said and len(said.splitlines()) == 1, said
