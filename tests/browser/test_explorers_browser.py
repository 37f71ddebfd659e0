"""The explorers in a real browser: Voila serves the notebooks of nbs/apps, headless Chromium turns the controls, and the pixels are compared."""
import base64
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from small_models import small_generator, write_weights

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
              pytest.mark.skipif(not (find_spec("voila") and find_spec("playwright")), reason="pip install voila playwright")]
PATIENCE = 240_000                                     # ms; a page is there after 5 s on a machine at leisure


def wait_for_port(port, server):
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        assert server.poll() is None, "voila ended by itself"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0: return
        time.sleep(0.2)
    raise TimeoutError("voila does not answer")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "Voila, serving the folder of the apps with small random networks."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("weights")
    environment = dict(os.environ, DEEPLANDSCAPE_WEIGHTS=str(write_weights(folder)), PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "voila", str(ROOT / "nbs" / "apps"), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    with open(folder / "voila.log", "w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            wait_for_port(port, server)
            yield f"http://127.0.0.1:{port}/voila/render/"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    "A page that reaches this machine only, on and off line alike."
    page = browser.new_page(viewport=dict(width=1400, height=1000), accept_downloads=True)
    page.set_default_timeout(PATIENCE)
    page.route("**/*", lambda route: route.continue_() if "//127.0.0.1" in route.request.url else route.abort())
    yield page
    page.close()


def wait_for(page, text): page.get_by_text(text).first.wait_for()


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


def as_array(image): return ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def test_scene_slider_changes_the_pixels(page, address):
    from deeplandscape.explorers import SceneExplorer
    expected = SceneExplorer(small_generator())
    page.goto(address + "scene.ipynb")
    wait_for(page, "z_dyn = +0.00, +0.00, +0.00")
    page.locator(".noUi-handle").first.focus()
    for _ in range(8): page.keyboard.press("ArrowRight")
    wait_for(page, "z_dyn = +2.00, +0.00, +0.00")
    shown = pixels_of(page).astype(int)
    assert np.abs(shown - as_array(expected.render((2.0, 0, 0)))).max() <= 1
    candidates = [float(z) for z in np.arange(0, 3.1, 0.5)]
    screen = seen(page, 32)
    distances = [np.abs(screen - as_array(expected.render((z, 0, 0)))).mean() for z in candidates]
    assert candidates[int(np.argmin(distances))] == 2.0, distances
    page.get_by_text("another scene").click()
    wait_for(page, "scene 1, clouds 1")
    assert np.abs(pixels_of(page).astype(int) - as_array(expected.render((2.0, 0, 0), 1))).max() <= 1


def test_motion_plays_and_saves(page, address):
    from deeplandscape.explorers import MotionExplorer
    expected = MotionExplorer(small_generator())
    page.goto(address + "motion.ipynb")
    wait_for(page, "scene 0, frame 0")
    before = pixels_of(page, 1)
    page.locator("select").first.select_option("9h")
    wait_for(page, "9h, speed +1.00, horizon 0.50, scene 0, frame 0")
    time_slider = page.locator(".widget-slider", has_text="time").locator(".noUi-handle")
    time_slider.focus()
    for _ in range(5): page.keyboard.press("ArrowRight")
    wait_for(page, "9h, speed +1.00, horizon 0.50, scene 0, frame 5")
    images, _ = expected.render([5], "9h")
    assert np.abs(pixels_of(page).astype(int) - as_array(images[0])).max() <= 1
    assert np.abs(pixels_of(page, 1).astype(int) - before).max() > 20                # the map has moved
    page.locator(".widget-play button").first.click()
    page.wait_for_function("![...document.querySelectorAll('.widget-label')].some(e => / frame 5$/.test(e.textContent))")
    page.locator(".widget-play button").first.click()
    page.get_by_role("button", name="save video").click()
    wait_for(page, "120 frames")
    with page.expect_download() as download: page.get_by_text("download motion.mp4").click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    assert page.locator("video").evaluate("v => new Promise(done => v.readyState > 1 ? done(v.videoWidth) : v.onloadeddata = () => done(v.videoWidth))") == 32


def test_photo_survives_bad_uploads_and_makes_a_video(page, address, tmp_path):
    page.goto(address + "photo.ipynb")
    upload = page.get_by_role("button", name="upload")
    upload.wait_for()
    def send(path):
        with page.expect_file_chooser() as chooser: upload.click()
        chooser.value.set_files(path)
    (tmp_path / "letter.jpg").write_text("Dear Sir or Madam")
    send(tmp_path / "letter.jpg")
    wait_for(page, "letter.jpg cannot be read as a picture")
    Image.fromarray(np.linspace(0, 255, 60 * 90 * 3).astype(np.uint8).reshape(60, 90, 3)).save(tmp_path / "mine.png")
    send(tmp_path / "mine.png")
    wait_for(page, "mine.png is here")
    assert pixels_of(page).shape == (60, 90, 3)
    page.locator(".widget-slider", has_text="seconds").locator(".noUi-handle").focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="animate").click()
    wait_for(page, "mine.png moves.")
    with page.expect_download() as download: page.get_by_text("download animated.mp4").click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    assert "SSIM" in page.locator("pre").first.inner_text()
