"""The preview of the explorers in a real browser, from a disk: keys turn the latents, the picture follows."""
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from serving import MISSING, chromium
from small_models import CONFIG, small_generator

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.fixture(scope="module")
def preview(tmp_path_factory):
    "The address of a preview, and its pictures (scenes, details, lights, times, R, R, 3)."
    import torch
    from deeplandscape.model.approximator import Approximator, LightingConfig
    from deeplandscape.report.preview import PreviewGrid, preview_pictures, write_preview
    G = small_generator(noise=0.1)
    A = Approximator(LightingConfig(CONFIG.w_dim, CONFIG.z_dyn_dim, depth=2)).eval()
    grid = PreviewGrid(details=(3, 4), times=4)
    everything = lambda images: torch.ones_like(images) / 3
    path = write_preview(tmp_path_factory.mktemp("preview"), grid, G, A, everything)
    return path.as_uri(), preview_pictures(grid, G, A).movedim(4, -1).numpy().astype(float)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser: yield browser


@pytest.fixture
def page(browser):
    "A page that must not ask for anything but files, and whose programs must not fail."
    page, asked, failed = browser.new_page(viewport=dict(width=1400, height=950)), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(error))
    yield page
    page.close()
    assert not failed and asked and all(re.match("file:|data:", url) for url in asked)


def wait_for(page, *setting):
    shown = ",".join(map(str, setting))
    page.wait_for_function(f"document.getElementById('picture').dataset.shown == '{shown}'")


def seen(page, name="picture"):
    "What the screen shows of a picture, brought back to the size of the generator's."
    shot = Image.open(io.BytesIO(page.locator(f"#{name}").screenshot())).convert("RGB")
    return np.array(shot.resize((CONFIG.resolution,) * 2, Image.Resampling.BOX)).astype(float)


def brightest(page):
    "The largest value of the picture of the change, without its round corners and the edge."
    shot = Image.open(io.BytesIO(page.locator("#change").screenshot())).convert("RGB")
    return np.array(shot)[8:-8, 8:-8].max()


def nearest(shown, pictures):
    "The setting whose picture is most like what is shown."
    settings = list(np.ndindex(pictures.shape[:4]))
    return settings[int(np.argmin([np.abs(shown - pictures[at]).mean() for at in settings]))]


def test_keys_turn_the_latents(page, preview):
    address, pictures = preview
    page.goto(address)
    wait_for(page, 0, 0, 2, 0)
    assert nearest(seen(page), pictures) == (0, 0, 2, 0) and brightest(page) == 0
    before, label = seen(page), page.locator("#picture").get_attribute("aria-label")
    page.get_by_role("slider", name="time").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    wait_for(page, 0, 0, 2, 2)
    assert nearest(seen(page), pictures) == (0, 0, 2, 2) and np.abs(seen(page) - before).mean() > 1
    assert page.locator("#picture").get_attribute("aria-label") != label
    assert page.get_by_role("slider", name="time").get_attribute("aria-valuetext") == "frame 10 of 20"
    page.get_by_role("slider", name="light").focus()
    page.keyboard.press("End")
    wait_for(page, 0, 0, 4, 2)
    page.get_by_role("radio", name="a bay").focus()
    page.keyboard.press("ArrowRight")
    wait_for(page, 1, 0, 4, 2)
    page.get_by_role("radio", name="draw 1").focus()
    page.keyboard.press("ArrowRight")
    wait_for(page, 1, 1, 4, 2)
    assert nearest(seen(page), pictures) == (1, 1, 4, 2)
    page.get_by_text("turned since before: z st, S st, z dyn, S dyn").wait_for()
    page.wait_for_function("location.hash == '#scene=1&details=1&light=4&time=2'")


def test_the_change_is_the_difference_to_the_picture_before(page, preview):
    address, pictures = preview
    page.goto(address + "#light=1")
    wait_for(page, 0, 0, 1, 0)
    page.get_by_role("button", name="Compare from here").click()
    assert nearest(seen(page, "from"), pictures) == (0, 0, 1, 0)
    page.get_by_role("slider", name="light").focus()
    page.keyboard.press("ArrowRight")
    wait_for(page, 0, 0, 2, 0)
    strong = np.clip(4 * np.abs(pictures[0, 0, 2, 0] - pictures[0, 0, 1, 0]), 0, 255)
    assert np.corrcoef(seen(page, "change").ravel(), strong.ravel())[0, 1] > 0.8
    page.get_by_role("button", name="Reset").click()
    wait_for(page, 0, 0, 2, 0)
    assert brightest(page) == 0


def test_a_link_opens_its_view_and_nonsense_the_first(page, preview):
    address, pictures = preview
    page.goto(address + "#scene=1&light=3&time=1")
    wait_for(page, 1, 0, 3, 1)
    assert nearest(seen(page), pictures) == (1, 0, 3, 1)
    page.goto(address + "#scene=7&light=x&time=-1&details=0.5")
    wait_for(page, 0, 0, 2, 0)


def test_play_turns_one_latent_alone(page, preview):
    page.goto(preview[0])
    wait_for(page, 0, 0, 2, 0)
    page.get_by_role("button", name="Play").focus()
    page.keyboard.press("Space")
    time = page.get_by_role("slider", name="time")
    values = set()
    while len(values) < 4: values.add(time.input_value()); page.wait_for_timeout(40)       # round and round
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play").wait_for()
    wait_for(page, 0, 0, 2, time.input_value())
    page.get_by_role("combobox").select_option("scene")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelectorAll('#scene input')[1].checked")
    page.get_by_role("button", name="Pause").click()
    wait_for(page, 1, 0, 2, time.input_value())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width, height", [(390, 844), (1400, 950)])
def test_nothing_is_cut_off(browser, preview, width, height, scheme):
    page = browser.new_page(viewport=dict(width=width, height=height), color_scheme=scheme)
    page.goto(preview[0])
    wait_for(page, 0, 0, 2, 0)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.evaluate("""() => [...document.querySelectorAll('canvas, input, button, select, output, td')]
        .map(e => e.getBoundingClientRect()).map(b => [b.left, b.right, b.width])""")
    assert all(left >= 0 and right <= width and wide > 20 for left, right, wide in boxes)
    assert page.evaluate("[...document.querySelectorAll('label, output, button')]"
                         ".every(e => e.scrollWidth <= e.clientWidth + 1 || e.clientWidth == 0)")
    assert page.locator("#picture").bounding_box()["width"] >= (384 if width > 1000 else 200)
    assert min(page.evaluate("[...document.querySelectorAll('button, select, [type=range], .options label')]"
                             ".map(e => e.getBoundingClientRect().height)")) >= 44
    for name in ("light", "time"):                          # what has the focus is seen beside the picture
        page.get_by_role("slider", name=name).focus()
        slider, shown = (page.locator(at).bounding_box() for at in (f"#{name} input", "#picture"))
        assert 0 <= slider["y"] and slider["y"] + slider["height"] <= height + 1
        assert width > 1000 or shown["y"] + shown["height"] <= slider["y"]
    page.keyboard.press("ArrowRight")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.close()


def test_without_scripts_a_sentence_says_so(browser, preview):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(preview[0])
    assert page.locator("noscript p").is_visible()                  # searched by text, it is left out
    page.locator("noscript a").click()
    page.wait_for_url("**/scene0_details0.jpg")
    context.close()
