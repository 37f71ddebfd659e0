"""The report: from result files alone, nothing stale, videos first, every paper figure in its place; in a
real browser it fits a phone and a desk."""
import json
import re
import shutil
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from deeplandscape.report.page import write_index, write_page, write_report
from deeplandscape.report.results import save_result

ROOT = Path(__file__).resolve().parents[1]
CONTENTS = yaml.safe_load((ROOT / "figures" / "published" / "contents.yaml").read_text(encoding="utf-8"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SENTINEL = 0.4711


class Reader(HTMLParser):
    "What matters of a page: ids, links, pictures, and whether tags are closed."
    VOID = {"meta", "link", "img", "source", "br", "col", "input"}

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.images, self.open, self.headings = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found: self.ids.append(found["id"])
        if "href" in found: self.links.append(found["href"])
        if "src" in found: self.links.append(found["src"])
        if tag == "img": self.images.append(found)
        if re.fullmatch("h[1-6]", tag): self.headings.append(int(tag[1]))
        if tag not in self.VOID: self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag, f"</{tag}> closes nothing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A folder with a table, a picture, a video, and a table made from the first."
    folder = tmp_path_factory.mktemp("figures") / "cpu"
    table = pd.DataFrame({"method": ["EO", "EOI"], "condition": "", "metric": "SSIM",
                          "value": [SENTINEL, 0.9]})
    save_result("a5_invert", "cpu", table=table, values={"SSIM, EO": SENTINEL}, parameters={"n_photos": 3},
                seed=0, started=0.0, output=folder)
    wide = torch.linspace(-1, 1, 900).expand(3, 60, 900)
    save_result("tab02_inversion", "cpu", wide, output=folder, inputs=(folder / "a5_invert.csv",),
                parameters={"source": "a5_invert"})
    frames = torch.stack([wide[..., i * 9:i * 9 + 64] for i in range(12)])
    save_result("fig01_videos", "cpu", wide, values={"videos": 4}, frames=frames, output=folder, seed=0)
    save_result("sec71_zdyn", "cpu", wide, values={"a name & <odd>": 0.8375}, output=folder)
    names = [f"a distance by some network {i}" for i in range(4)]
    many = [{"method": method, "condition": "I_n against Î_n, mean over time", "metric": metric,
             "value": 0.0012345, "low": 0.0011111, "high": 0.0022222}
            for method in ("Ours (EOIF)", "Ours (EOIF), finished", "control: still photo")
            for metric in ("SSIM", *names)]
    save_result("a8_baselines", "cpu", table=pd.DataFrame(many), output=folder)
    save_result("fig07_animation", "cpu", wide, output=folder, inputs=(folder / "a8_baselines.csv",),
                parameters={"source": "a8_baselines"})
    write_report(folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path): return Path(shutil.copytree(folder, tmp_path / "cpu"))


def text_of(folder): return (write_report(folder)).read_text(encoding="utf-8")


def test_every_figure_in_the_order_of_the_paper(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    places = [text.index(f'<article id="{item["name"]}"') for item in CONTENTS]
    assert places == sorted(places)


def test_well_formed_and_linked(folder):
    page = Reader((folder / "index.html").read_text(encoding="utf-8"))
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"): assert link[1:] in page.ids
        elif not link.startswith(("https://arxiv.org/", "data:")): assert (folder / link).exists(), link
    assert page.images and all(image["alt"] and image["width"] and image["height"] for image in page.images)
    assert page.headings[0] == 1 and all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:]))
    # what runs stands in the page: nothing is fetched
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "<script src" not in text and not re.search(r"""(?:src|href)=["']https?://(?!arxiv)""", text)


def test_videos_come_first_with_the_papers_own_figure(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    places = [text.index(f'id="{name}"') for name in ("videos", "figures", "claims", "provenance")]
    assert places == sorted(places)
    films = text[places[0]:places[1]]
    assert "fig01_videos.mp4" in films and "https://arxiv.org/pdf/2008.09655#page=" in films


def test_at_most_ten_numbers_before_the_rest_is_folded(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    article = text[text.index('<article id="tab02_inversion"'):]
    article = article[:article.index("</article>")]
    shown = re.sub(r"<details.*?</details>", "", article, flags=re.S)
    assert 1 <= shown.count("<dd>") <= 10 and "<table" not in shown and "<table" in article


def test_curves_stand_in_the_page_as_they_are_in_the_file(tmp_path):
    "Points and intervals of a CSV, rounded to five digits; a table without a course has none."
    lines = [("Ours", "", "SSIM", 1 - n / 70, 0.9 - n / 70, 1.0, n) for n in range(5)]
    table = pd.DataFrame(lines, columns=["method", "condition", "metric", "value", "low", "high", "frame"])
    save_result("fig09_ssim", "cpu", table=table, output=tmp_path)
    text = text_of(tmp_path)
    data = re.search(r'<script type="application/json" class="curves">(.*?)</script>', text, re.S)
    found = json.loads(data[1])
    line, = found[0]["lines"]
    assert found[0]["title"] == "SSIM" and line["name"] == "Ours"
    assert np.allclose(np.array(line["points"]), table[["frame", "value", "low", "high"]], atol=1e-5)
    assert 'href="fig09_ssim.csv" download' in text


def test_numbers_beside_the_papers(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert text.count("0.4711") >= 2 and "−0.479" in text  # ours, and what it lacks of the paper's 0.95
    assert "a name &amp; &lt;odd&gt;" in text and "0.8375" in text


def test_intervals_controls_and_systems_as_published(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    article = text[text.index('<article id="fig07_animation"'):]
    article = article[:article.index("</article>")]
    rows = {row.split("</th>")[0].split(">")[-1]: row for row in article.split('<th scope="row">')[1:]}
    assert "[0.001111, 0.002222]" in rows["control: still photo"] and "0.001234" in rows["Ours (EOIF)"]
    assert ("210" in rows["SG"] and "not measured yet" not in rows["SG"]
            and "not measured yet" in rows["Ours (EOIF)"])


def test_a_changed_number_changes_the_page(copy):
    csv = copy / "a5_invert.csv"
    csv.write_text(csv.read_text().replace("0.4711", "0.4822"))
    text = text_of(copy)
    # the table made from it is out of date
    assert "0.4822" in text and 'src="tab02_inversion.png"' not in text


@pytest.mark.parametrize("gone, traces", [
    ("a5_invert.json", ["0.4711", "a5_invert.json", 'src="tab02_inversion.png"',
                        'href="tab02_inversion.json"']),
    ("sec71_zdyn.json", ["0.8375", "sec71_zdyn.png"]), ("sec71_zdyn.png", ['src="sec71_zdyn.png"']),
    ("fig01_videos.mp4", ["fig01_videos.mp4"]),
    ("fig01_videos.json", ["fig01_videos.mp4", "fig01_videos.png"])])
def test_a_deleted_artefact_is_gone(copy, gone, traces):
    before = (copy / "index.html").read_text(encoding="utf-8")
    assert all(trace in before for trace in traces)
    (copy / gone).unlink()
    after = text_of(copy)
    assert not any(trace in after for trace in traces)
    assert f'<article id="{gone.split(".")[0]}"' in after or gone.startswith("a5")


def test_empty_folder_and_foreign_profile(tmp_path):
    assert "There is no result of this notebook in this profile." in text_of(tmp_path / "none")
    save_result("fig01_videos", "my own", values={"videos": 1}, output=tmp_path / "own")
    assert "profile my own" in text_of(tmp_path / "own")


def test_list_of_profiles(folder):
    lines = write_index(folder.parent).read_text(encoding="utf-8")
    assert "(cpu/index.html)" in lines and "(cpu/README.md)" in lines and "| section | claim | cpu |" in lines


def test_links_of_the_committed_lists():
    for page in (ROOT / "figures" / "README.md", *ROOT.glob("figures/*/README.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None or not find_spec("playwright"):
        pytest.skip("there is no Chromium, or no playwright, on this machine")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    "The page of the committed results of the profile cpu."
    folder = tmp_path_factory.mktemp("committed") / "figures" / "cpu"
    shutil.copytree(ROOT / "figures" / "cpu", folder)
    return write_page(folder)


def test_on_a_telephone_the_page_is_short_and_everything_can_be_opened(browser, committed):
    "At 390 px what is beyond the picture and ten numbers a section is closed; links and print open it."
    page, said = browser.new_page(viewport=dict(width=390, height=844)), []
    page.set_default_timeout(240_000)
    page.on("pageerror", lambda problem: said.append(str(problem)))
    page.goto(committed.as_uri())
    height = lambda: page.evaluate("document.documentElement.scrollHeight")
    closed = lambda: page.evaluate("document.querySelectorAll('details:not([open])').length")
    low, count = height(), closed()
    assert low < 20_000 and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shown = page.evaluate("[...document.querySelectorAll('article')].map(a => [...a.querySelectorAll('dd')]"
                          ".filter(e => e.checkVisibility()).length)")
    assert max(shown) == 10
    claim = page.evaluate("document.querySelector('tr[id^=claim-]').id")
    assert not page.locator(f"[id='{claim}']").is_visible()
    page.evaluate("id => { location.hash = id }", claim)
    page.locator(f"[id='{claim}']").wait_for()                     # a link leads into what was closed
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert closed() == 0 and height() > 2 * low
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert closed() == count - 1
    page.emulate_media(media="print")                              # without the script, too
    assert page.evaluate("[...document.querySelectorAll('details > :is(p, dl, table, article, .curves)')]"
                         ".filter(e => e.getBoundingClientRect().height == 0).length") == 0
    page.emulate_media(media="screen")
    page.set_viewport_size(dict(width=1200, height=900))
    page.wait_for_function("[...document.querySelectorAll('details.narrow')].every(d => d.open)")
    assert not page.locator("details.narrow > summary").first.is_visible() and said == []
    page.close()


@pytest.mark.parametrize("width", [390, 820, 1200])
def test_in_a_browser(browser, folder, tmp_path, width):
    page, said = browser.new_page(viewport=dict(width=width, height=900)), []
    page.set_default_timeout(240_000)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda problem: said.append(str(problem)))
    page.on("requestfailed", lambda request: request.resource_type == "media" or said.append(request.url))
    page.goto((folder / "index.html").as_uri(), wait_until="load")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate("Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode() }))")
    wide = page.evaluate("[...document.querySelectorAll('body *')].filter(e => "
                         "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, "
                         "90))")
    assert wide == [] and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.evaluate("[...document.querySelectorAll('main p, main td, main th, dd, dt, li')].every(e => "
                         "parseFloat(getComputedStyle(e).fontSize) >= 9.5)")
    inner = ("[...document.querySelectorAll('article *, .claims td *')].filter(e => "
             "e.getBoundingClientRect().right > e.closest('article, .claims "
             "td').getBoundingClientRect().right + 1)")
    assert page.evaluate(inner + ".map(e => e.outerHTML.slice(0, 90))") == []
    page.screenshot(path=str(tmp_path / "page.png"))
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"), dtype=float)
    assert pixels.shape[1] == width and pixels.std() > 10 and np.median(pixels) > 200  # dark text on light
    assert said == []
    if width == 1200:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        page.set_viewport_size(dict(width=673, height=900))  # A4 without its margins
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
