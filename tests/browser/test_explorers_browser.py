"""The explorers in a real browser: `deeplandscape explore` serves the notebooks of nbs/apps, headless
Chromium turns the controls, and the pixels are compared."""
import base64
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from serving import MISSING, chromium, opened, served
from small_models import small_generator, write_weights

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(folder):
    "Voila, serving the folder of the apps with small random networks."
    with served(folder, "--voila", DEEPLANDSCAPE_WEIGHTS=str(write_weights(folder))) as address:
        yield address + "voila/render/"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser: yield browser


@pytest.fixture
def page(browser):
    with opened(browser) as page: yield page


def wait_for(page, text): page.get_by_text(text).first.wait_for()
def handle(page, name): return page.locator(".widget-slider", has_text=name).locator(".noUi-handle")
def as_array(image): return ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def pixels_of(page, index=0):
    "What the picture element holds, decoded: (H, W, 3) uint8."
    data = page.locator("img.widget-image").nth(index).evaluate(
        """async image => { const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
                            return btoa(String.fromCharCode(...bytes)) }""")
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def seen(page, size, index=0):
    "What the screen shows of the picture, brought back to size x size."
    shot = Image.open(io.BytesIO(page.locator("img.widget-image").nth(index).screenshot())).convert("RGB")
    return np.array(shot.resize((size, size), Image.Resampling.BOX)).astype(float)


def same(shown, image): return np.abs(shown.astype(int) - as_array(image)).max() <= 1


def drag(page, name, share):
    "Pull the slider of that name to a share of its length with the mouse."
    handle(page, name).scroll_into_view_if_needed()     # the mouse reaches only what is on the screen
    grip = handle(page, name).bounding_box()
    rail = page.locator(".widget-slider", has_text=name).locator(".noUi-base").bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(rail["x"] + share * rail["width"], rail["y"] + rail["height"] / 2, steps=6)
    page.mouse.up()


def send(page, path, button="upload"):
    with page.expect_file_chooser() as chooser: page.get_by_role("button", name=button).click()
    chooser.value.set_files(path)


def overlaps(page):
    "Pairs of visible controls and pictures of which one covers part of the other."
    return page.evaluate("""() => {
        const parts = ['img', 'button', '.widget-slider', 'select', '.widget-label']
        const selector = parts.map(part => '.explorer ' + part).join(', ')
        const boxes = [...document.querySelectorAll(selector)].map(e => [e, e.getBoundingClientRect()])
            .filter(([e, b]) => b.width > 1 && b.height > 1 && getComputedStyle(e).visibility != 'hidden')
        const found = []
        for (const [e, a] of boxes) for (const [f, b] of boxes)
            if (e !== f && !e.contains(f) && !f.contains(e) && e.compareDocumentPosition(f) & 4 &&
                Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
                Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2)
                found.push([e.textContent || e.tagName, f.textContent || f.tagName])
        return found }""")


def test_scene_sliders_and_styles_change_the_pixels(page, address):
    from deeplandscape.explorers.latents import SceneExplorer
    expected = SceneExplorer(small_generator())
    seed = expected.controls["seed"].value
    page.goto(address + "scene.ipynb")
    wait_for(page, "z_dyn = +0.00, +0.00, +0.00")
    assert not overlaps(page)
    handle(page, "z dyn 1").focus()
    for _ in range(8): page.keyboard.press("ArrowRight")
    wait_for(page, "z_dyn = +2.00, +0.00, +0.00")
    assert same(pixels_of(page), expected.render((2.0, 0, 0), seed))
    candidates, screen = [float(z) for z in np.arange(0, 3.1, 0.5)], seen(page, 32)
    distances = [np.abs(screen - as_array(expected.render((z, 0, 0), seed))).mean() for z in candidates]
    assert candidates[int(np.argmin(distances))] == 2.0, distances
    drag(page, "z dyn 2", 1.0)
    wait_for(page, "z_dyn = +2.00, +3.50, +0.00")
    assert same(pixels_of(page), expected.render((2.0, 3.5, 0), seed))
    page.get_by_role("button", name="7 deep night").click()
    wait_for(page, "z_dyn = +2.50, +0.00, +0.00")
    page.wait_for_timeout(1500)                                     # what is done within a second is one step
    page.get_by_role("button", name="another scene", exact=True).click()
    wait_for(page, f"scene {seed + 1}, clouds {seed + 1}")
    assert same(pixels_of(page), expected.render((2.5, 0, 0), seed + 1))
    page.get_by_role("button", name="undo").click()
    wait_for(page, f"scene {seed}, clouds {seed}")
    page.get_by_text("Python", exact=True).click()
    program = page.locator(".program textarea").input_value()
    assert f"seed in ({seed}, {seed})" in program and "[[2.5, 0.0, 0.0]]" in program


def test_motion_plays_and_saves(page, address):
    from deeplandscape.explorers.latents import MotionExplorer
    expected = MotionExplorer(small_generator())
    seed = expected.controls["seed"].value
    page.goto(address + "motion.ipynb")
    wait_for(page, f"scene {seed}, frame")
    page.wait_for_function("[...document.querySelectorAll('.widget-label')].some(e => / frame [1-9]"
                           "/.test(e.textContent))")                # it plays by itself
    page.locator(".widget-play button").first.click()
    page.locator(".widget-play button").nth(1).click()
    wait_for(page, f"scene {seed}, frame 0")
    assert not overlaps(page)
    before = pixels_of(page, 1)
    page.get_by_role("button", name="9", exact=True).click()
    wait_for(page, f"9h, speed +1.00, horizon 0.50, scene {seed}, frame 0")
    handle(page, "time").focus()
    for _ in range(5): page.keyboard.press("ArrowRight")
    wait_for(page, f"9h, speed +1.00, horizon 0.50, scene {seed}, frame 5")
    assert same(pixels_of(page), expected.render([5], "9h")[0][0])
    assert np.abs(pixels_of(page, 1).astype(int) - before).max() > 20                # the map has moved
    page.locator(".widget-play button").first.click()
    page.wait_for_function("![...document.querySelectorAll('.widget-label')].some(e => / frame "
                           "5$/.test(e.textContent))")
    page.locator(".widget-play button").first.click()
    page.get_by_role("button", name="save", exact=True).click()
    wait_for(page, "120 frames")
    with page.expect_download() as download: page.get_by_text("download motion.mp4").click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    assert (page.locator("video").evaluate(
        "v => new Promise(done => v.readyState > 1 ? done(v.videoWidth) : v.onloadeddata = () => "
        "done(v.videoWidth))") == 64)


def test_inversion_runs_stops_and_loosens(page, address):
    page.goto(address + "inversion.ipynb")
    page.get_by_role("button", name="invert").wait_for()
    assert not overlaps(page)
    page.locator(".widget-dropdown", has_text="steps").locator("select").select_option("the paper's 500")
    page.get_by_role("button", name="invert").click()
    wait_for(page, "MO, step")
    page.get_by_role("button", name="stop").click()  # heard while the variants run
    wait_for(page, "Stopped.")
    page.locator(".widget-dropdown", has_text="steps").locator("select").select_option("60, quick")
    for name in ("MO", "EOI"): page.get_by_role("button", name=name, exact=True).click()
    page.get_by_role("button", name="invert").click()
    wait_for(page, "china.jpg: E, EOIFS.")
    assert page.locator("svg polyline").count() == 2 and not overlaps(page)
    wait_for(page, "EOIFS, 0.00")
    faithful = pixels_of(page, page.locator("img.widget-image").count() - 2)
    drag(page, "", 1.0)
    wait_for(page, "EOIFS, 1.00")
    movable = pixels_of(page, page.locator("img.widget-image").count() - 2)
    assert np.abs(faithful.astype(int) - movable).mean() > 1


def test_photo_survives_bad_uploads_and_makes_a_video(page, address, tmp_path):
    page.goto(address + "photo.ipynb")
    page.get_by_role("button", name="upload").wait_for()
    assert not overlaps(page)
    (tmp_path / "letter.jpg").write_text("Dear Sir or Madam")
    send(page, tmp_path / "letter.jpg")
    wait_for(page, "letter.jpg cannot be read as a picture")
    noise = np.random.default_rng(0).integers(0, 256, (1600, 2400, 3), dtype=np.uint8)
    # 11.5 MB, more than Jupyter's own limit
    Image.fromarray(noise).save(tmp_path / "large.png", compress_level=0)
    send(page, tmp_path / "large.png")
    wait_for(page, "large.png is here")
    Image.fromarray(np.linspace(0, 255,
                                60 * 90 * 3).astype(np.uint8).reshape(60, 90, 3)).save(tmp_path / "mine.png")
    send(page, tmp_path / "mine.png")
    wait_for(page, "mine.png is here")
    assert pixels_of(page).shape == (60, 90, 3)
    handle(page, "seconds").focus()
    page.keyboard.press("Home")
    page.get_by_text("Light", exact=True).click()
    page.locator(".widget-dropdown", has_text="light").locator("select").select_option("deep night")
    page.get_by_role("button", name="animate").click()
    wait_for(page, "mine.png moves.")
    with page.expect_download() as download: page.get_by_text("download animated.mp4").click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    report = page.locator("table.report").first.inner_text()
    assert "SSIM" in report and "deep night, 1" in report


def test_paint_reaches_the_mask(page, address):
    page.goto(address + "photo.ipynb")
    page.get_by_text("Correct the mask").click()
    page.get_by_text("hold still").click()
    canvas = page.locator(".painter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 60, steps=8)
    page.mouse.up()
    wait_for(page, "still: ")
    page.get_by_role("button", name="clear").click()
    page.wait_for_function("![...document.querySelectorAll('.painter .small')]"
                           ".some(e => /painted/.test(e.textContent))")


def test_a_mask_from_a_file(page, address, tmp_path):
    page.goto(address + "photo.ipynb")
    page.get_by_text("Correct the mask").click()
    mask = np.repeat(np.array([255, 0], np.uint8), 64)[:, None].repeat(192, 1)       # the upper half moves
    Image.fromarray(mask).save(tmp_path / "m.png")
    send(page, tmp_path / "m.png", "load a mask")
    wait_for(page, "m.png: 50 % static, 50 % sky")
    with page.expect_download() as download: page.get_by_text("save the mask").click()
    saved = np.array(Image.open(download.value.path()).convert("RGB"))
    assert saved[5, 5].tolist() == [0, 0, 255] and saved[-5, 5].tolist() == [0, 0, 0]


def test_a_direction_is_kept_and_gone_along(page, address, tmp_path):
    page.goto(address + "scene.ipynb")
    wait_for(page, "z_dyn = +0.00, +0.00, +0.00")
    page.get_by_role("button", name="keep as A").click()
    before = pixels_of(page)
    page.get_by_role("button", name="7 deep night").click()
    wait_for(page, "z_dyn = +2.50, +0.00, +0.00")
    page.get_by_text("Named directions").click()
    page.get_by_placeholder("a name").fill("night")
    page.get_by_placeholder("a name").press("Tab")
    page.get_by_role("button", name="keep the way from A to now").click()
    wait_for(page, "night is kept")
    night = pixels_of(page)
    with page.expect_download() as download: page.locator("a[download='directions.json']").click()
    Path(download.value.path()).rename(tmp_path / "mine.json")
    page.get_by_role("button", name="neutral, z_dyn = 0").click()
    wait_for(page, "z_dyn = +0.00, +0.00, +0.00")
    page.get_by_role("button", name="remove").click()
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload:visible", has_text="load").last.click()
    chooser.value.set_files(tmp_path / "mine.json")
    wait_for(page, "mine.json: night.")
    handle(page, "night").focus()
    for _ in range(20): page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.program textarea').value.includes('amount=1.0')")
    assert np.abs(pixels_of(page).astype(int) - night).max() <= 1 and not np.array_equal(night, before)


def test_the_horizon_is_dragged(page, address):
    page.goto(address + "motion.ipynb")
    wait_for(page, "horizon 0.50")
    page.locator(".widget-play button").first.click()               # it plays by itself
    line, image = page.locator(".line [role=slider]"), page.locator("img.widget-image").first.bounding_box()
    grip = line.bounding_box()
    middle = grip["y"] + grip["height"] / 2
    assert abs(middle - image["y"] - image["height"] / 2) <= 2 and abs(grip["width"] - image["width"]) <= 2
    page.mouse.move(grip["x"] + 100, middle)
    page.mouse.down()
    page.mouse.move(grip["x"] + 120, image["y"] + 0.3 * image["height"], steps=10)
    page.mouse.up()
    wait_for(page, "horizon 0.30")
    page.wait_for_function("parseFloat(document.querySelector('.line').style.top) == 30")
    line.focus()
    page.keyboard.press("ArrowDown")
    wait_for(page, "horizon 0.31")
    drag(page, "horizon", 1.0)
    wait_for(page, "horizon 1.00")
    page.wait_for_function("parseFloat(document.querySelector('.line').style.top) == 100")


def test_a_stroke_on_a_map_changes_the_picture_and_is_undone(page, address):
    page.goto(address + "scene.ipynb")
    wait_for(page, "z_dyn = +0.00, +0.00, +0.00")
    page.get_by_text("Brush on a dynamic map").click()
    wait_for(page, "Nothing is touched yet.")
    before = pixels_of(page)
    canvas, under = page.locator(".painter canvas"), page.locator(".painter img")
    for kind in "new noise", "smooth", "move":
        page.locator(".painter label", has_text=kind).locator("input").check()
        canvas.scroll_into_view_if_needed()
        box, below = canvas.bounding_box(), under.bounding_box()
        assert box["width"] == 256 and all(abs(box[side] - below[side]) <= 1 for side in box)   # on the map
        page.mouse.move(box["x"] + 60, box["y"] + 80)
        page.mouse.down()
        page.mouse.move(box["x"] + 190, box["y"] + 90, steps=8)
        page.mouse.up()
        wait_for(page, {"new noise": "noise in", "smooth": "smooth in", "move": "move by 8, 1 in"}[kind])
        after = pixels_of(page)
        assert np.abs(after.astype(int) - before).max() > 2
        page.get_by_role("button", name="undo").click()
        wait_for(page, "Nothing is touched yet.")
        assert np.array_equal(pixels_of(page), before)
    assert not overlaps(page)


@pytest.mark.parametrize("name", ["scene", "motion", "inversion", "photo"])
def test_nothing_is_cut_on_a_telephone(browser, address, name):
    "At 390 px nothing is wider than the page, sliders have 200 px and no picture is broken."
    with opened(browser, 390, 800) as page:
        page.goto(f"{address}{name}.ipynb")
        page.locator(".explorer .widget-slider").first.wait_for()
        page.wait_for_timeout(2000)
        cut = page.evaluate("""() => [...document.querySelectorAll('.explorer *')]
            .filter(e => e.checkVisibility()
            && e.getBoundingClientRect().right > 391).map(e => e.className || e.tagName)""")
        short = page.locator(".explorer button").evaluate_all(
            "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)")
        rails = page.locator(".explorer .noUi-base").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().width).filter(w => w > 0)")
        broken = page.locator(".explorer img").evaluate_all(
            "all => all.filter(e => e.complete && !e.naturalWidth).length")
        assert not cut and not short and not broken and min(rails) >= 200, (cut, short, broken, rails)


def test_a_section_is_opened_and_closed_with_the_keyboard(page, address):
    page.goto(address + "scene.ipynb")
    wait_for(page, "z_dyn = +0.00, +0.00, +0.00")
    focused = lambda: page.evaluate("document.activeElement.textContent.trim()")
    for name, text in (("Python", "copy as Python"), ("Brush on a dynamic map", "Nothing is touched yet.")):
        page.locator(".widget-dropdown select").first.focus()
        for _ in range(60):
            page.keyboard.press("Tab")
            if focused() == name: break
        assert focused() == name
        page.keyboard.press("Enter")
        wait_for(page, text)
        page.keyboard.press("Enter")
        page.get_by_text(text).first.wait_for(state="hidden")


def kernels():
    "The Jupyter kernels that this process, or what it started, has started."
    import psutil
    found = set()
    for child in psutil.Process().children(recursive=True):
        try: found |= {child.pid} if any("ipykernel" in word for word in child.cmdline()) else set()
        except psutil.Error: continue
    return found


def test_the_kernel_of_a_closed_page_ends(browser, address):
    before = kernels()
    with opened(browser) as page:
        page.goto(address + "scene.ipynb")
        wait_for(page, "z_dyn = ")
        mine = kernels() - before
        assert len(mine) >= 1
    end = time.monotonic() + 240
    while kernels() & mine and time.monotonic() < end: time.sleep(2)
    assert not kernels() & mine


def test_scene_in_jupyterlab(page, folder):
    from deeplandscape.explorers.latents import SceneExplorer
    settings = folder / "lab" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    environment = dict(DEEPLANDSCAPE_WEIGHTS=str(write_weights(folder)),
                       JUPYTERLAB_SETTINGS_DIR=str(folder / "lab"), JUPYTER_TOKEN="browser")
    with served(folder, **environment) as address:
        page.goto(address + "doc/tree/nbs/apps/scene.ipynb?reset&token=browser")
        wait_for(page, "Python 3 (ipykernel) | Idle")
        page.locator(".jp-Cell").first.click()
        for _ in range(2): page.keyboard.press("Shift+Enter")
        wait_for(page, "z_dyn = +0.00, +0.00, +0.00")
        page.get_by_role("button", name="4 light sunset").click()
        wait_for(page, "z_dyn = +0.00, +3.50, +0.00")
        expected = SceneExplorer(small_generator())
        assert same(pixels_of(page), expected.render((0, 3.5, 0), expected.controls["seed"].value))
