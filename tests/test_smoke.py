"""The whole graph at its smallest size: every promised file appears and is not blank; a second call has nothing left to do."""
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplandscape.core import read_video
from deeplandscape.report import plan, reproduce

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p.stem for p in (ROOT / "nbs" / "repro").glob("*.ipynb"))
PICTURES = [n for n in NOTEBOOKS if n.startswith(("fig", "tab", "sec"))]
MOVING = ["fig01_videos", "fig04_animations"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    before = {p: p.stat().st_mtime_ns for p in (ROOT / "figures").rglob("*") if p.is_file()}
    began = time.time()
    status = reproduce("smoke", figures=folder / "figures", runs=folder / "runs")
    print(f"\nsmoke profile: {len(NOTEBOOKS)} notebooks in {time.time() - began:.0f} s")
    logs = "\n".join(log.read_text()[-1500:] for log in (folder / "runs" / "logs").glob("*.log") if not (folder / "runs" / f"{log.stem}.ipynb").exists())
    assert status == 0, logs
    assert before == {p: p.stat().st_mtime_ns for p in (ROOT / "figures").rglob("*") if p.is_file()}, "a test wrote into figures/"
    return folder


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_result_and_executed_notebook(smoke, name):
    facts = json.loads((smoke / "figures" / f"{name}.json").read_text(encoding="utf-8"))
    assert facts["name"] == name and facts["profile"] == "smoke" and len(facts["code"]["sha256"]) == 64
    assert facts["run"]["seconds"] >= 0 and "output" not in facts["parameters"]
    assert (smoke / "runs" / f"{name}.ipynb").exists() and not (smoke / "runs" / f"{name}.partial.ipynb").exists()


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_not_blank(smoke, name):
    pixels = np.asarray(Image.open(smoke / "figures" / f"{name}.png").convert("L"), dtype=float)
    assert min(pixels.shape) > 60 and pixels.std() > 5


@pytest.mark.parametrize("name", MOVING)
def test_video_moves(smoke, name):
    frames, fps = read_video(smoke / "figures" / f"{name}.mp4")
    assert len(frames) >= 6 and fps > 0
    assert (frames[0].float() - frames[-1].float()).abs().mean() > 0.5
    assert (smoke / "figures" / f"{name}.gif").stat().st_size > 1000


def test_gallery_lists_every_result(smoke):
    page = (smoke / "figures" / "README.md").read_text(encoding="utf-8")
    assert all(f"{name}.json" in page for name in NOTEBOOKS)


def test_nothing_left_to_do(smoke):
    before = {p: p.stat().st_mtime_ns for p in (smoke / "figures").glob("*.json")}
    assert reproduce("smoke", figures=smoke / "figures", runs=smoke / "runs") == 0
    assert before == {p: p.stat().st_mtime_ns for p in (smoke / "figures").glob("*.json")}


def test_parameters_reach_the_notebooks(smoke):
    wanted = plan("smoke").parameters["fig01_videos"]
    found = json.loads((smoke / "figures" / "fig01_videos.json").read_text(encoding="utf-8"))["parameters"]
    assert found["n_videos"] == wanted["n_videos"]
