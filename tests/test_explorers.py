"""The explorers without a page: each notebook of nbs/apps runs in a kernel of its own, and the controls do what they say."""
import sys
import threading
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from deeplandscape.core import InputError, weights_path
from deeplandscape.explorers import Job, MotionExplorer, PhotoExplorer, SceneExplorer, as_png
from small_models import CONFIG, small_generator, write_weights

APPS = Path(__file__).resolve().parents[1] / "nbs" / "apps"
EXPECTED = {"scene": {"ImageModel": 1, "FloatSliderModel": 4, "BoundedIntTextModel": 2, "LabelModel": 1, "ButtonModel": 2},
            "motion": {"ImageModel": 4, "FloatSliderModel": 2, "DropdownModel": 1, "PlayModel": 1, "LinkModel": 1},
            "photo": {"ImageModel": 1, "FileUploadModel": 1, "DropdownModel": 3, "ButtonModel": 1, "CheckboxModel": 1}}


def has_weights():
    try: return all(weights_path(name) for name in ("generator", "encoder", "perception"))
    except InputError: return False


def run(name):
    "The notebook of that name, executed, and how many widgets of each kind its page has."
    notebook = nbformat.read(APPS / f"{name}.ipynb", 4)
    NotebookClient(notebook, timeout=300, store_widget_state=True, kernel_name="python3", resources={"metadata": {"path": str(APPS)}}).execute()
    state = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    names = [model["model_name"] for model in state.values()]
    return notebook, {name: names.count(name) for name in set(names)}


@pytest.fixture(scope="module")
def G(): return small_generator()


def test_every_app_is_known(): assert {p.stem for p in APPS.glob("*.ipynb")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_app_is_two_cells(name):
    notebook = nbformat.read(APPS / f"{name}.ipynb", 4)
    assert [cell.cell_type for cell in notebook.cells] == ["code", "code"]
    assert all(len(cell.source.splitlines()) == 1 for cell in notebook.cells)


@pytest.mark.parametrize("name", EXPECTED)
def test_app_runs_with_small_networks(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLANDSCAPE_WEIGHTS", str(write_weights(tmp_path)))
    notebook, count = run(name)
    assert {kind: count.get(kind, 0) for kind in EXPECTED[name]} == EXPECTED[name]
    assert "application/vnd.jupyter.widget-view+json" in notebook.cells[1].outputs[0].data


@pytest.mark.slow
@pytest.mark.skipif(not has_weights(), reason="this installation has no weights")
@pytest.mark.parametrize("name", EXPECTED)
def test_app_runs_with_the_shipped_networks(name, monkeypatch):
    monkeypatch.delenv("DEEPLANDSCAPE_WEIGHTS", raising=False)
    assert run(name)[1]["ImageModel"] == EXPECTED[name]["ImageModel"]


@pytest.mark.parametrize("control, value", [("z_dyn_1", 2.0), ("z_dyn_2", -3.0), ("z_dyn_3", 0.25), ("seed", 5), ("clouds", 5), ("psi", 1.0)])
def test_scene_controls_change_the_picture(G, control, value):
    explorer = SceneExplorer(G, seed=1)
    before = explorer.images[0].value
    explorer.controls[control].value = value
    now = explorer.values()
    light = [now[name] for name in explorer.names]
    assert explorer.images[0].value != before
    assert explorer.images[0].value == as_png(explorer.render(light, now["seed"], now["clouds"], now["psi"]))


def test_captions_follow_the_picture(G):
    "Whoever waits for the caption sees the picture that belongs to it."
    explorer, order = SceneExplorer(G), []
    explorer.images[0].observe(lambda _: order.append("picture"), "value")
    explorer.caption.observe(lambda _: order.append("caption"), "value")
    explorer.set(z_dyn_1=1.0, seed=3)
    assert order == ["picture", "caption"]


def test_motion_starts_where_the_scene_is(G):
    "At time 0 every direction shows the same picture; later, every direction another."
    explorer = MotionExplorer(G, frames=30)
    at = lambda time: {explorer.set(direction=hour, time=time) or explorer.images[0].value for hour in ("3h", "9h", "12h")}
    assert len(at(0)) == 1 and len(at(25)) == 3


def test_motion_at_the_limits_of_its_controls(G):
    explorer = MotionExplorer(G, frames=200)
    for horizon in (0.0, 1.0):
        for speed in (-4.0, 0.0, 4.0):
            explorer.set(direction="12h", horizon=horizon, speed=speed, time=199)
            assert torch.isfinite(explorer.render([199], "12h", speed, horizon)[0]).all()


def test_one_job_at_a_time():
    started, release = [], threading.Event()
    def work(tick): started.append(1); release.wait(10); return "Done."
    job = Job("go", work)
    job.click()
    thread = job.thread
    job.click()                                        # means "stop", starts nothing
    assert job.thread is thread and job.stopping and job.button.description == "stop"
    release.set(); job.wait()
    assert started == [1] and job.note.value == "Done." and job.button.description == "go"


def test_photo_without_sky_or_water_says_so(G):
    still = lambda images: torch.cat([torch.ones_like(images[:, :1]), torch.zeros_like(images[:, :2])], 1)
    explorer = PhotoExplorer(models=dict(G=G, segment=still, perceptual=object()), size=64, device="cpu")
    explorer.controls["seconds"].value = 0.5
    explorer.job.click(); explorer.job.wait()
    assert "Neither sky nor water" in explorer.report.value and explorer.movie.data[4:8] == b"ftyp"
