"""The explorers without a page: each notebook of nbs/apps runs in a kernel of its own, and the controls do
what they say."""
import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from PIL import Image, ImageDraw
from nbclient import NotebookClient

from deeplandscape.core import InputError
from deeplandscape.registry import weights_path
from deeplandscape.explorers.toolkit import as_png, ClockFace, Drawing, Job, PhotoChoice, read_upload
from deeplandscape.explorers.photos import InversionExplorer, loosen, PhotoExplorer
from deeplandscape.explorers.latents import (
    GeneratorPicker, meaning, measurements, MotionExplorer, SceneExplorer)
from deeplandscape.explorers.recipes import (
    Direction, Recipe, recipe_code, recipe_from_json, recipe_latents, recipe_picture, Style)
from deeplandscape.explorers.painter import MAP_BRUSHES
from deeplandscape.explorers.touches import Touch
from deeplandscape.photo.inversion import invert, STEADY
from deeplandscape.video.lighting import STYLES, styles_of
from deeplandscape.media import read_photo, save_image, to_uint8
from deeplandscape.photo.steering import read_mask
from deeplandscape.model.approximator import load_lighting
from deeplandscape.video.motion import CLOCK
from small_models import CONFIG, small_generator, write_weights

APPS = Path(__file__).resolve().parents[1] / "nbs" / "apps"
EXPECTED = {"scene": {"ImageModel": 5, "FloatSliderModel": 12, "BoundedIntTextModel": 3, "ButtonModel": 27,
                      "FileUploadModel": 2, "DropdownModel": 4, "TextareaModel": 2},
            "motion": {"ImageModel": 8, "FloatSliderModel": 15, "ButtonModel": 42, "PlayModel": 1,
                       "LinkModel": 1},
            "inversion": {"ImageModel": 3, "FileUploadModel": 1, "ToggleButtonModel": 7,
                          "FloatSliderModel": 1, "ButtonModel": 1},
            "photo": {"ImageModel": 2, "FileUploadModel": 2, "DropdownModel": 6, "FloatSliderModel": 3,
                      "IntSliderModel": 1, "ButtonModel": 5, "CheckboxModel": 1, "TextareaModel": 1}}


def has_weights():
    try: return all(weights_path(name) for name in ("generator", "encoder", "perception"))
    except InputError: return False


def run(name):
    "The notebook of that name, executed, and how many widgets of each kind its page has."
    notebook = nbformat.read(APPS / f"{name}.ipynb", 4)
    NotebookClient(notebook, timeout=300, store_widget_state=True, kernel_name="python3",
                   resources={"metadata": {"path": str(APPS)}}).execute()
    state = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    names = [model["model_name"] for model in state.values()]
    return notebook, {name: names.count(name) for name in set(names)}


@pytest.fixture(scope="module")
def G(): return small_generator()


def test_every_app_is_known(): assert {p.stem for p in APPS.glob("*.ipynb")} == {*EXPECTED, "start"}


def test_the_start_page_leads_to_every_explorer():
    text = "".join(cell.source for cell in nbformat.read(APPS / "start.ipynb", 4).cells)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert {f"{name}.ipynb" for name in EXPECTED} <= set(links)
    assert len(links) > 12 and all((APPS / link).exists() for link in links)


@pytest.mark.parametrize("name", EXPECTED)
def test_app_is_two_cells(name):
    notebook = nbformat.read(APPS / f"{name}.ipynb", 4)
    assert [cell.cell_type for cell in notebook.cells] == ["code", "code"]
    *colab, first = notebook.cells[0].source.splitlines()     # nothing anywhere else
    assert first.startswith("from deeplandscape.explorers.") and "google.colab" in colab[1]
    assert len(notebook.cells[1].source.splitlines()) == 1


@pytest.mark.parametrize("name", EXPECTED)
def test_app_runs_with_small_networks(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLANDSCAPE_WEIGHTS", str(write_weights(tmp_path)))
    notebook, count = run(name)
    assert {kind: count.get(kind, 0) for kind in EXPECTED[name]} == EXPECTED[name]
    assert "application/vnd.jupyter.widget-view+json" in notebook.cells[1].outputs[0].data


@pytest.mark.slow
@pytest.mark.skipif(not has_weights(), reason="this installation has no weights")
@pytest.mark.parametrize("name", ["photo"])        # which reads all of them
def test_app_runs_with_the_shipped_networks(name, monkeypatch):
    monkeypatch.delenv("DEEPLANDSCAPE_WEIGHTS", raising=False)
    assert run(name)[1]["ImageModel"] == EXPECTED[name]["ImageModel"]


@pytest.mark.parametrize("control, value",
                         [("z_dyn_1", 2.0), ("z_dyn_2", -3.0), ("z_dyn_3", 0.25), ("seed", 5), ("clouds", 5),
                          ("psi", 1.0), ("static_3", 0.0), ("dynamic_2", 2.5), ("other_from", 1)])
def test_scene_controls_change_the_picture(G, control, value):
    explorer = SceneExplorer(G, seed=2)
    before = explorer.images[0].value
    explorer.controls[control].value = value
    assert explorer.wait()
    assert explorer.images[0].value != before
    assert explorer.images[0].value == as_png(recipe_picture(explorer.recipe(), G))


def test_captions_follow_the_picture(G):
    "Whoever waits for the caption sees the picture that belongs to it."
    explorer, order = SceneExplorer(G), []
    explorer.images[0].observe(lambda _: order.append("picture"), "value")
    explorer.caption.observe(lambda _: order.append("caption"), "value")
    explorer.set(z_dyn_1=1.0, seed=3)
    assert order == ["picture", "caption"]


TOUCHES = (Touch(2, "noise", "9+30 70+20", 4), Touch(2, "smooth", "40+100"),
           Touch(3, "move", "0+512", 0, (5, -3)),
           Touch(7, "noise", "0+9", 1))                # of a level that a small generator does not have
NIGHT = Direction("night", Style(), Style((2, 0, -1), seed=4, other=6, other_from=2), 0.6)
MANY = [Recipe(), Recipe(z_dyn=(1.25, -3.5, 0.1)), Recipe(seed=11, clouds=12), Recipe(psi=0.35, seed=2),
        Recipe(static=(1, 0, 2, 0.5)), Recipe(dynamic=(0.1, 0.2, 3, 0)), Recipe(other=5, other_from=2),
       Recipe(direction="7h", speed=-2.5, horizon=0.35, time=41), Recipe(time=3.5, dynamic=(2,)),
       Recipe(z_dyn=(3, 2, 1), seed=7, clouds=8, psi=1.0, static=(0.3,) * 4, dynamic=(2,) * 4, other=9,
              other_from=1, direction="12h", speed=1.5, horizon=1.0, time=99),
        Recipe(touches=TOUCHES[:1]), Recipe(touches=TOUCHES[1:2]),
        Recipe(touches=TOUCHES, seed=1, time=30, dynamic=(2,) * 4), Recipe(directions=(NIGHT,)),
        Recipe(directions=(NIGHT, replace(NIGHT, end=Style(directions=(NIGHT,)), amount=-1)), other=5,
               other_from=1, touches=TOUCHES)]


def test_states_copied_as_python_make_the_same_pictures(G, tmp_path):
    "In one fresh process that knows only the weights: every picture to the bit."
    folders = [tmp_path / str(k) for k in range(len(MANY))]
    for folder, recipe in zip(folders, MANY):
        folder.mkdir()
        (folder / "made.py").write_text(recipe_code(recipe, G))
    script = "import os, sys\nfor f in sys.argv[1:]: os.chdir(f); exec(open('made.py').read(), {})"
    environment = dict(os.environ, DEEPLANDSCAPE_WEIGHTS=str(write_weights(tmp_path)))
    subprocess.run([sys.executable, "-c", script, *map(str, folders)], check=True, env=environment)
    made = [to_uint8(read_photo(folder / "picture.png")) for folder in folders]
    for picture, recipe in zip(made, MANY):
        assert torch.equal(picture, to_uint8(recipe_picture(recipe, G))), recipe
    assert len({picture.numpy().tobytes() for picture in made}) == len(MANY)


def test_what_was_copied_is_what_is_shown(G):
    "The explorer's own state, however it came about, is the state that it copies."
    explorer = MotionExplorer(G, seed=3)
    for recipe in MANY:
        explorer.apply(recipe.replace(time=float(int(recipe.time))))
        assert explorer.desk.papers.program.value == recipe_code(explorer.recipe(), G)
        assert recipe_from_json(explorer.recipe().as_json()) == explorer.recipe()
        assert explorer.recipe().touches == recipe.touches
        assert explorer.recipe().directions == recipe.directions
        assert torch.equal(explorer.shown, recipe_picture(explorer.recipe(), G))


def test_undo_goes_through_everything_that_was_done(G):
    explorer = SceneExplorer(G, seed=1)
    explorer.desk.history.pause = 0
    pictures = [explorer.images[0].value]
    for change in (dict(z_dyn_1=1.0), dict(seed=4, clouds=4), dict(dynamic_1=3.0), dict(psi=0.2)):
        explorer.set(**change)
        pictures.append(explorer.images[0].value)
    back = []
    while not explorer.desk.undo.disabled:
        explorer.desk.undo.click()
        back.append(explorer.images[0].value)
    assert back == pictures[-2::-1]
    for picture in pictures[1:]:
        explorer.desk.redo.click()
        assert explorer.images[0].value == picture


def stroke(kind, x0, y0, x1, y1, size=256, width=60):
    "What the browser sends of a straight stroke, in parts of the canvas."
    canvas, file = Image.new("RGBA", (size, size)), io.BytesIO()
    ImageDraw.Draw(canvas).line([(x0 * size, y0 * size), (x1 * size, y1 * size)], MAP_BRUSHES[kind], width)
    canvas.save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    return f"data:image/png;base64,{data}#{x0},{y0},{x1},{y1},{time.time()}"


@pytest.mark.parametrize("kind, level", [("noise", 0), ("noise", 3), ("smooth", 2), ("move", 2)])
def test_a_stroke_changes_its_cells_and_its_picture_and_can_be_undone(G, kind, level):
    explorer = SceneExplorer(G, seed=1)
    brush, before = explorer.brush, explorer.shown
    brush.level.value = level
    untouched = recipe_latents(explorer.recipe(), G, explorer.mean)[2]
    brush.painter.strokes.value = stroke(kind, 0.2, 0.3, 0.8, 0.3)
    after = recipe_latents(explorer.recipe(), G, explorer.mean)[2]
    assert [i for i in range(4) if not torch.equal(untouched[i], after[i])] == [level]
    changed = (untouched[level] != after[level])[0, 0]
    rows = changed.any(1).nonzero().flatten().float() / len(changed)
    assert 0 < changed.float().mean() < 0.5 and rows.max() <= 0.5          # only where the stroke was
    assert not torch.equal(explorer.shown, before)
    assert torch.equal(explorer.shown, recipe_picture(recipe_from_json(explorer.recipe().as_json()), G))
    explorer.desk.undo.click()
    assert torch.equal(explorer.shown, before) and explorer.desk.undo.disabled


def test_a_moved_patch_is_the_noise_that_was_elsewhere(G):
    explorer = SceneExplorer(G, seed=1)
    explorer.brush.level.value = 3                                          # 32 x 32
    S = recipe_latents(explorer.recipe(), G, explorer.mean)[2][3][0, 0]
    explorer.brush.painter.strokes.value = stroke("move", 0.25, 0.5, 0.75, 0.5)
    moved = recipe_latents(explorer.recipe(), G, explorer.mean)[2][3][0, 0]
    assert torch.equal(moved[14:18, 20:24], S[14:18, 4:8])                  # by half the width: 16 cells


def test_a_direction_does_the_same_in_another_explorer(G):
    "Kept between two states, taken from its file elsewhere, gone along: the picture of the second state."
    first, second = SceneExplorer(G, seed=1), SceneExplorer(G, seed=1)
    first.desk.comparison.keep.click()
    first.set(z_dyn_1=2.0, z_dyn_3=-1.0)
    first.directions.name.value = "night"
    first.directions.keep.click()
    file = base64.b64decode(re.search(r"base64,([^\"]+)", first.directions.link.value)[1])
    second.directions.load(dict(new=(dict(name="mine.json", content=memoryview(file)),)))
    for amount in 0.5, 1.0:
        second.directions.sliders["night"].value = amount
        assert second.wait()
    assert (second.shown - first.shown).abs().max() < 1e-4
    assert torch.equal(second.shown, recipe_picture(recipe_from_json(second.recipe().as_json()), G))
    second.set(seed=7, clouds=7)
    assert not torch.equal(second.shown, recipe_picture(second.recipe().replace(directions=()), G))
    second.desk.reset.click()
    assert second.directions.sliders["night"].value == 0 and "night" in second.directions.known


def test_readings_follow_the_picture(G):
    explorer = SceneExplorer(G, seed=1)
    readings = explorer.readings
    assert "brightness" in readings.said.value and readings.histograms.value.count("<svg") == 3
    assert all(abs(readings.squares[name] - 1) < 0.4 for name in ("S_st", "S_dyn"))
    before = readings.said.value
    explorer.set(z_dyn_1=3.0, dynamic_1=3.0, dynamic_2=3.0)
    bright = round(127.5 * float(explorer.shown.mean() + 1))
    assert readings.said.value != before and readings.said.value.endswith(f"→ {bright}.")
    assert readings.squares["S_dyn"] > 3
    explorer.set(psi=0.0)
    assert readings.squares["w"] < 1e-9
    explorer.set(psi=1.0)
    readings.again.click()
    assert "mean flow 0.000" in readings.said.value
    readings.on.value = False
    kept = readings.said.value
    explorer.set(z_dyn_1=-3.0)
    assert readings.said.value == kept


def test_the_horizon_is_dragged_on_the_picture(G):
    explorer = MotionExplorer(G, seed=1)
    explorer.set(direction="12h", time=20)
    before = explorer.shown
    explorer.line.sent.value = "0.31"                           # what the browser sends while it is dragged
    assert explorer.wait() and explorer.recipe().horizon == 0.31 and not torch.equal(explorer.shown, before)
    explorer.set(horizon=0.8)
    assert explorer.line.grip.layout.top == "80.0%"
    explorer.desk.history.rest()
    for wrong in "nan", "nonsense", "": explorer.line.sent.value = wrong
    assert explorer.wait() and explorer.recipe().horizon == 0.8


@pytest.mark.timing
@pytest.mark.skipif(not has_weights(), reason="this installation has no weights")
def test_readings_cost_less_than_the_picture():
    "Turn about in one run, so that whatever else the machine does falls on both alike."
    explorer = SceneExplorer(seed=3)
    def seconds(on):
        explorer.readings.on.value = on
        explorer.controls["z_dyn_1"].value = 0.25 - explorer.controls["z_dyn_1"].value
        explorer.wait()
        began = time.perf_counter()
        explorer.refresh()
        return time.perf_counter() - began
    pairs = sorted(seconds(True) / seconds(False) for _ in range(15))
    assert pairs[7] < 2, pairs


def test_the_picker_keeps_the_state_and_survives_a_broken_file(G, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLANDSCAPE_WEIGHTS", str(write_weights(tmp_path)))
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    names = dict(own="generator", file=str(tmp_path / "generator.safetensors"),
                 broken=str(tmp_path / "broken.safetensors"))
    picker = GeneratorPicker(SceneExplorer, names)
    picker.explorer.set(seed=9, z_dyn_2=1.5)
    shown = picker.explorer.images[0].value
    picker.list.value = names["file"]
    assert picker.explorer.images[0].value == shown and picker.explorer.weights == names["file"]
    picker.list.value = names["broken"]
    assert "damaged" in picker.note.value and picker.explorer.images[0].value == shown


def test_motion_starts_where_the_scene_is(G):
    "At time 0 every direction shows the same picture; later, every direction another."
    explorer = MotionExplorer(G, frames=30)
    at = lambda time: {explorer.set(direction=hour, time=time) or explorer.images[0].value
                       for hour in ("3h", "9h", "12h")}
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


STILL = lambda images: torch.cat([torch.ones_like(images[:, :1]), torch.zeros_like(images[:, :2])], 1)
SKY = lambda images: torch.cat([torch.zeros_like(images[:, :1]), torch.ones_like(images[:, :1]),
                                torch.zeros_like(images[:, :1])], 1)


class Pixels:
    def features(self, x): return x
    def distance(self, a, b): return (a - b).abs().flatten(1).mean(1)


def models(G, segment=SKY):
    return dict(G=G, E=lambda photo: torch.zeros(len(photo), 2 * G.config.levels, G.config.w_dim),
                segment=segment, perceptual=Pixels())


def test_photo_without_sky_or_water_says_so(G):
    explorer = PhotoExplorer({"wall": torch.rand(3, 40, 60) * 2 - 1}, models(G, STILL), device="cpu")
    explorer.controls["iterations"].options = [("few", 4)]
    explorer.controls["seconds"].value = 0.5
    explorer.job.click(); explorer.job.wait()
    assert "Neither sky nor water" in explorer.report.value and explorer.movie.data[4:8] == b"ftyp"


@pytest.mark.parametrize("shape", [(3, 40, 96), (3, 96, 40)], ids=["wide", "tall"])
def test_photo_of_sky_only(G, shape):
    explorer = PhotoExplorer({"sky": torch.rand(shape) * 2 - 1}, models(G), device="cpu")
    explorer.controls["iterations"].options = [("few", 4)]
    explorer.controls["seconds"].value = 0.5
    explorer.job.click(); explorer.job.wait()
    assert explorer.job.note.value == "sky moves." and explorer.video.frames.shape == (15, *shape)


@pytest.mark.parametrize("z_dyn", [z for _, z, _ in STYLES])
def test_styles_are_within_reach_of_the_sliders(G, z_dyn):
    explorer = SceneExplorer(G)
    explorer.set(**dict(zip(explorer.names, z_dyn)))
    assert [explorer.controls[name].value for name in explorer.names] == list(z_dyn)


def test_the_buttons_are_the_styles_of_the_lighting_network(G):
    "Buttons, the list of lights of the photo explorer and `--light` know the same names for the same points."
    A = load_lighting()
    A.config = replace(A.config, w_dim=G.config.w_dim)  # as if made for this generator
    A.meta = A.meta | {"styles": [[k / 8, [0.25 * k, -0.25 * k, 0.5], f"light {k}"] for k in range(9)]}
    explorer = SceneExplorer(G, A=A)
    assert [b.description for b in explorer.styles.children] == [f"{k + 1} light {k}" for k in range(9)]
    for button, (_, z_dyn, _) in zip(explorer.styles.children, styles_of(A)):
        button.click()
        assert [explorer.controls[name].value for name in explorer.names] == z_dyn
    photo = PhotoExplorer({"wall": torch.rand(3, 40, 60)}, models(G) | {"A": A}, device="cpu")
    assert ([v for _, v in photo.controls["light"].options]
            == ["", "tour", "random", *(f"light {k}" for k in range(9))])
    # a generator without a network of its own
    assert [b.tooltip for b in SceneExplorer(G).styles.children][3].startswith(STYLES[3][2])


def test_photo_changes_its_light(G, tmp_path):
    A = load_lighting(write_weights(tmp_path) / "lighting.safetensors")
    explorer = PhotoExplorer({"sky": torch.rand(3, 40, 60) * 2 - 1}, models(G) | {"A": A}, device="cpu")
    explorer.controls["iterations"].options = [("few", 4)]
    for name, value in dict(seconds=0.5, light="deep night", amount=0.5).items():
        explorer.controls[name].value = value
    explorer.job.click(); explorer.job.wait()
    assert explorer.job.note.value == "sky moves." and explorer.video.report["light"] == "deep night, 0.5"


def test_a_mask_from_a_file_moves_what_it_says(G, tmp_path):
    "`animate` gets what `--mask` would read of it; what is not a picture is refused in a sentence."
    explorer = PhotoExplorer({"wall": torch.rand(3, 40, 60) * 2 - 1, "other": torch.rand(3, 40, 60)},
                             models(G, STILL), device="cpu")
    explorer.controls["iterations"].options = [("few", 4)]
    explorer.controls["seconds"].value = 0.5
    white = torch.full((3, 40, 60), -1.0)
    white[:, :20] = 1
    save_image(white, tmp_path / "mask.png")
    file = dict(name="mask.png", content=memoryview((tmp_path / "mask.png").read_bytes()))
    explorer.masks.take(dict(new=(file,)))
    assert explorer.masks.note.value.startswith("mask.png: 50 % static, 50 % sky")
    explorer.job.click(); explorer.job.wait()
    first, last = explorer.video.frames[[0, -1]].float()
    moved = (last - first).abs().mean(0)
    assert moved[:16].mean() > 10 * moved[24:].mean() and "note" not in explorer.video.report
    assert torch.equal(explorer.masks.given, read_mask(tmp_path / "mask.png"))
    for name, content in hostile_uploads().items():
        if name == "dot.png": continue
        explorer.masks.take(dict(new=(dict(name=name, content=memoryview(content)),)))
        assert name in explorer.masks.note.value and "/tmp" not in explorer.masks.note.value
    assert explorer.masks.given is not None                     # what was there stays
    tall = torch.full((3, 60, 20), 1.0)
    save_image(tall, tmp_path / "tall.png")
    tall = dict(name="tall.png", content=memoryview((tmp_path / "tall.png").read_bytes()))
    explorer.masks.take(dict(new=(tall,)))
    assert "stretched" in explorer.masks.note.value
    explorer.choice.list.value = "other"
    assert explorer.masks.given is None and explorer.masks.note.value == ""


def test_every_hour_has_a_button():
    face = ClockFace()
    for hour in CLOCK:
        face.buttons[hour].click()
        assert face.value == hour and [h for h, b in face.buttons.items() if b.button_style] == [hour]
    places = {b.layout.grid_area for b in face.buttons.values()}
    assert len(places) == 12


@pytest.mark.timing
def test_a_slow_drawing_skips_what_is_out_of_date(G):
    "Thirty moves of a slider are answered by a few pictures, the last one right; the hand never waits."
    explorer, drawn, draw = SceneExplorer(G, seed=0), [], SceneExplorer.draw
    explorer.draw = lambda **values: (time.sleep(0.1), drawn.append(values["z_dyn_1"]),
                                      draw(explorer, **values))[-1]
    began = time.perf_counter()
    for k in range(30): explorer.controls["z_dyn_1"].value = k * 0.1
    assert time.perf_counter() - began < 2.5
    assert explorer.wait() and len(drawn) < 28 and drawn[-1] == explorer.controls["z_dyn_1"].value
    assert explorer.images[0].value == as_png(explorer.render([drawn[-1], 0, 0]))


def test_a_failed_drawing_leaves_a_sentence_and_works_again(G):
    explorer = SceneExplorer(G)
    draw, explorer.draw = explorer.draw, lambda **_: 1 / 0
    explorer.set(seed=1)
    assert "ZeroDivisionError" in explorer.caption.value
    explorer.draw = draw
    explorer.set(seed=2)
    assert "scene 2" in explorer.caption.value


@pytest.mark.parametrize("card", ["{", "{}", json.dumps(dict(weights={"generator": "b"}))])
def test_nothing_is_claimed_about_other_weights(tmp_path, card):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "sec71_zdyn.json").write_text(card)
    (tmp_path / "cpu" / "sec71_zdyn.csv").write_text(
        "coordinate,value,measure,mean,std\n1,-3,brightness,0.2,0.1\n1,3,brightness,0.6,0.1\n")
    assert measurements("a", tmp_path) == [] and measurements(None, tmp_path) == []
    (tmp_path / "cpu" / "sec71_zdyn.json").write_text(json.dumps(dict(weights={"generator": "a"})))
    rows = measurements("a", tmp_path)
    assert meaning(rows, 1) == "brightness 0.20 → 0.60" and meaning(rows, 2) == ""
    found = [dict(coordinate=1, measure="warmth", change=-0.7, share=0.9, named=True)]
    (tmp_path / "cpu" / "sec71_zdyn.json").write_text(
        json.dumps(dict(weights={"generator": "a"}, values=dict(meaning=found))))
    assert meaning(measurements("a", tmp_path), 1) == "less warmth, in 90% of scenes"


def test_loosening_ends_at_the_sample(G):
    "At 0 the inversion itself, at 1 a proper sample: W', unit noise, the generator before fine-tuning."
    photo = torch.rand(1, 3, 32, 32) * 2 - 1
    found = invert(G, photo, "EOIF", models(G)["E"], perceptual=Pixels(),
                   settings=replace(STEADY, iterations=6, tune_iterations=4))
    W_free = models(G)["E"](photo)
    faithful, movable = loosen(found, G, W_free, 0.0), loosen(found, G, W_free, 1.0)
    torch.testing.assert_close(faithful.reconstruction(), found.reconstruction())
    assert all(torch.equal(a, b) for a, b in zip(movable.generator.parameters(), G.parameters()))
    assert torch.equal(movable.W, W_free) and abs(float(movable.S_dyn[-1].std()) - 1) < 0.1


@pytest.mark.parametrize("segment", [STILL, SKY], ids=["no sky", "all sky"])
def test_inversion_of_photos_without_one_of_the_regions(G, segment):
    explorer = InversionExplorer({"noise": torch.rand(3, 60, 40) * 2 - 1}, models(G, segment), "cpu")
    explorer.steps.options = [("few", 5)]
    for name, toggle in explorer.toggles.items(): toggle.value = name in ("E", "EOIFS")
    explorer.job.click(); explorer.job.wait()
    assert explorer.job.note.value == "noise: E, EOIFS." and explorer.columns["EOIFS"].moved.value
    assert ("static" in explorer.loose.caption.value) == (segment is STILL)
    assert not any(G.to_rgb[-1]._forward_hooks for found, *_ in explorer.found.values()
                   for G in found.generators)


def test_every_step_of_an_inversion_is_seen(G):
    "Progress, and a stop that takes effect at once, need the images of both phases."
    explorer, seen = InversionExplorer({"noise": torch.rand(3, 40, 40)}, models(G), "cpu"), []
    def look(image):
        seen.append(image.shape)
        if len(seen) > 30: raise InputError("Stopped.")
    photo = torch.rand(3, 40, 40) * 2 - 1
    explorer.render(photo, "EOIFS", 6, look=look)
    assert len(seen) >= 12
    for variant in ("MO", "EOI", "EOIFS"):
        seen.clear()
        with pytest.raises(InputError, match="Stopped"): explorer.render(photo, variant, 10**6, look=look)
        assert len(seen) == 31


@pytest.mark.timing
def test_page_answers_while_an_inversion_runs(G):
    explorer, other = InversionExplorer({"noise": torch.rand(3, 40, 40)}, models(G), "cpu"), SceneExplorer(G)
    explorer.steps.options = [("many", 10**6)]
    explorer.job.click()
    while "step" not in explorer.job.note.value and explorer.job.thread.is_alive(): time.sleep(0.05)
    began = time.perf_counter()
    other.set(z_dyn_1=1.0)
    answered = time.perf_counter() - began
    explorer.job.click(); explorer.job.wait()
    assert (answered < 30 and explorer.job.note.value == "Stopped."
            and explorer.job.button.description == "invert")


def hostile_uploads():
    def png(size, mode="RGB", form="png"):
        data = io.BytesIO(); Image.new(mode, size).save(data, form); return data.getvalue()
    return {"empty.jpg": b"", "text.png": b"no picture" * 100, "half.png": png((200, 200))[:120],
            "dot.png": png((3, 900)),
            "page.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "film.mp4": b"\0\0\0\x18ftypmp42" + bytes(500)}


@pytest.mark.parametrize("name", list(hostile_uploads()))
def test_hostile_uploads_end_in_a_sentence(name):
    with pytest.raises(InputError) as error: read_upload(name, hostile_uploads()[name])
    assert name in str(error.value) and "/tmp" not in str(error.value)
    choice = PhotoChoice(dict(first=torch.zeros(3, 20, 20)))
    choice.take(dict(new=({"name": name, "content": memoryview(hostile_uploads()[name])},)))
    assert choice.name == "first" and name in choice.note.value


@pytest.mark.parametrize("name, mode", [("grey.png", "L"), ("deep.png", "I;16"), ("see-through.png", "RGBA"),
                                        ("print.jpg", "CMYK"), ("film.gif", "P")])
def test_uploads_of_every_kind_are_read(name, mode):
    data = io.BytesIO(); Image.new(mode, (40, 30)).save(data, dict(jpg="jpeg").get(name[-3:], name[-3:]))
    assert read_upload(name, data.getvalue()).shape == (3, 30, 40)
