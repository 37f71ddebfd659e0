"""Pictures of the explorers for the notebook: `python tests/browser/screenshots.py` writes nbs/apps/*.png,
from the shipped weights."""
import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from PIL import Image
from serving import ROOT, chromium, opened, served


def scene(page):
    page.get_by_text("z_dyn = +0.00").first.wait_for()
    page.get_by_role("button", name="another scene", exact=True).click()
    page.wait_for_timeout(1500)


def motion(page):
    page.get_by_text("horizon 0.50").first.wait_for()
    page.locator(".widget-play button").first.click()
    page.get_by_role("button", name="2", exact=True).click()
    slider = page.locator(".widget-slider", has_text="time").locator(".noUi-handle")
    slider.focus()
    for _ in range(4): page.keyboard.press("PageUp")
    page.wait_for_timeout(3000)


def choose(page, text):
    page.locator(".widget-dropdown", has_text="photo").locator("select").select_option(text)
    page.wait_for_timeout(2000)


def inversion(page):
    page.get_by_role("button", name="invert").wait_for()
    choose(page, "mountain lake (rendered)")
    page.get_by_role("button", name="invert").click()
    page.get_by_text("mountain lake (rendered): MO, E, EOI, EOIFS.").wait_for()
    page.locator(".noUi-handle").last.focus()
    for _ in range(6): page.keyboard.press("ArrowRight")
    page.get_by_text("EOIFS, 0.30").wait_for()


def photo(page):
    page.get_by_role("button", name="animate").wait_for()
    choose(page, "lake at dusk (rendered)")
    page.get_by_role("button", name="animate").click()
    page.get_by_text("lake at dusk (rendered) moves.").wait_for()
    page.wait_for_timeout(1500)


def main(names):
    with tempfile.TemporaryDirectory() as folder, served(folder, "--voila") as address, chromium() as browser:
        for name in names or ("scene", "motion", "inversion", "photo"):
            with opened(browser, height=1500) as page:
                page.goto(f"{address}voila/render/{name}.ipynb")
                globals()[name](page)
                box = page.locator(".explorer").first.bounding_box()
                shot = page.screenshot(full_page=True,
                                       clip={k: max(0, box[k] - 8) if k in "xy" else box[k] + 16
                                             for k in box})
                made = Image.open(io.BytesIO(shot)).convert("RGB")
                path = ROOT / "nbs" / "apps" / f"{name}.png"
                made.resize((made.width * 3 // 4, made.height * 3 // 4),
                            Image.Resampling.LANCZOS).save(path, optimize=True)
                print(path.name, made.size, f"{path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__": main(sys.argv[1:])
