"""The preview of the explorers: which picture lies where, what the page links, and what it refuses."""
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deeplandscape.core import InputError
from deeplandscape.model.approximator import Approximator, LightingConfig
from deeplandscape.model.generator import Latents, mean_style, truncate
from deeplandscape.report.preview import (
    PreviewGrid, build_docs, preview_effects, preview_pictures, preview_sheet, write_preview)
from deeplandscape.report.site import addresses_of, build_site
from deeplandscape.video.lighting import STYLES
from deeplandscape.video.motion import Homography, moving_maps
from small_models import CONFIG, small_generator

ROOT = Path(__file__).resolve().parents[1]
GRID = PreviewGrid(scenes=(("here", 1), ("there", 2), ("elsewhere", 5)), details=(3, 4),
                   lights=("blue day", "light sunset", "deep night"), times=4, period=10.0)


def halves(images):
    "A segmentation: the upper half is sky, the lower land."
    side = images.shape[-1]
    land = (torch.arange(side) >= side // 2).float()[:, None].expand(side, side)
    return torch.stack([land, 1 - land, 0 * land]).expand(len(images), -1, -1, -1)


@pytest.fixture(scope="module")
def networks():
    "Of random weights; its maps are weak, because what is all noise does not survive as JPEG."
    A = Approximator(LightingConfig(CONFIG.w_dim, CONFIG.z_dyn_dim, depth=2)).eval()
    return small_generator(noise=0.1), A


LINKED = ("index", "start", "motion", "scene", "photo", "inversion", "21_generator", "40_motion",
          "41_lighting", "56_effects", "953_preview")


@pytest.fixture(scope="module")
def site(networks, tmp_path_factory):
    "A site with the preview and the pages that have to do with it."
    out = tmp_path_factory.mktemp("docs")
    G, A = networks
    return build_docs(out, LINKED, grid=GRID, G=G, A=A, segment=halves).parent


@pytest.fixture(scope="module")
def page(site): return (site / "preview" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(page): return json.loads(re.search(r'type="application/json" id="data">(.*?)</script>', page)[1])


@torch.no_grad()
def picture(G, scene, details, z_dyn, time):
    "One picture from the formula: nothing of the preview is used but its seeds."
    draw = lambda seed: Latents.sample(G.config, [seed])
    w = G.mapping(torch.cat([draw(scene).z_st, torch.tensor([z_dyn])], dim=1))
    H = Homography.clock("3h", horizon=0.55, speed=4.0)
    S_dyn = moving_maps(draw(GRID.clouds).S_dyn, H, torch.tensor([time]).double(), 10.0, overlap=0.5)
    image = G.synthesis(truncate(w, mean_style(G), 0.7), draw(details).S_st, S_dyn)[0]
    return ((image.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()


def cell_of(site, data, at):
    "What the page cuts out of a sheet for a setting."
    scene, details, light, time = at
    with Image.open(site / "preview" / data["sheets"][scene * data["shape"][1] + details]) as sheet:
        x, y, R = time * data["size"], light * data["size"], data["size"]
        return np.array(sheet.crop((x, y, x + R, y + R))).astype(float)


def test_each_cell_is_what_the_generator_gives(site, data, networks):
    "Random settings: a direct call gives the picture to the bit or one, and the page's cell is the nearest."
    labels = {label: z_dyn for _, z_dyn, label in STYLES}
    rng, settings = np.random.default_rng(0), list(np.ndindex(*GRID.shape))
    cells = np.stack([cell_of(site, data, at) for at in settings])
    pictures = preview_pictures(GRID, *networks)
    for n in rng.choice(len(settings), 8, replace=False):
        i, j, k, t = settings[n]
        direct = picture(networks[0], GRID.scenes[i][1], GRID.details[j], labels[GRID.lights[k]], 2.5 * t)
        errors = np.abs(cells - direct).mean((1, 2, 3))
        assert np.abs(pictures[i, j, k, t].permute(1, 2, 0).numpy() - direct).max() <= 1, settings[n]
        assert errors.argmin() == n and errors[n] < 8, settings[n]


def test_stored_pictures_lose_only_what_jpeg_loses(networks, site, data):
    pictures = preview_pictures(GRID, *networks)
    assert pictures.dtype == torch.uint8 and pictures.shape[:4] == GRID.shape == tuple(data["shape"])
    sheet = preview_sheet(pictures[1, 1])
    assert sheet.size == (4 * data["size"], 3 * data["size"])
    cut = np.array(sheet)[data["size"]:2 * data["size"], 3 * data["size"]:]
    assert (cut == pictures[1, 1, 1, 3].permute(1, 2, 0).numpy()).all()
    with Image.open(site / "preview" / data["sheets"][3]) as stored:
        assert np.abs(np.array(stored).astype(float) - np.array(sheet)).mean() < 8


def test_effects_find_the_latent_that_was_changed():
    "Made-up pictures, in which one latent alone turns the upper half, another the lower."
    upper, lower = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    upper[:, :4], lower[:, 4:] = 100, 50
    at = lambda i, j, k, t: (k * lower + t * upper + 20).to(torch.uint8)
    pictures = torch.stack([at(*place) for place in np.ndindex(2, 2, 2, 2)]).unflatten(0, (2, 2, 2, 2))
    land = lambda images: torch.stack([(lower[0] > 0).float(), (upper[0] > 0).float(), 0 * upper[0]]).expand(
        len(images), -1, -1, -1)
    found = {row["latent"]: row for row in preview_effects(pictures, land)}
    assert list(found) == ["z_st", "S_st", "z_dyn", "S_dyn"]
    near = lambda latent, moving, static: (found[latent]["moving"] == pytest.approx(moving, abs=1e-6)
                                           and found[latent]["static"] == pytest.approx(static, abs=1e-6))
    assert near("z_st", 0, 0) and near("S_st", 0, 0)
    assert near("z_dyn", 0, 50 / 255) and near("S_dyn", 100 / 255, 0)


class Parts(HTMLParser):
    "Links of a page, what it loads, and the names of its controls."
    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "a": self.links.append(found["href"])
        elif "href" in found or "src" in found: self.loaded.append(found.get("src") or found["href"])


def test_every_link_leads_somewhere(site, page):
    local = [link for link in Parts(page).links if not re.match(r"[a-z]+:", link)]
    missing = [link for link in local if not os.path.exists(site / "preview" / link)]
    assert len(local) >= 9 and not missing
    away = {link for link in Parts(page).links if re.match(r"[a-z]+:", link)}
    assert away == {address for name in ("scene", "motion")
                    for place, address in addresses_of(f"nbs/apps/{name}.ipynb").items() if place != "GitHub"}


def test_nothing_is_loaded_from_elsewhere(site, page, data):
    assert Parts(page).loaded == ["data:,"]
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|srcset", page)
    assert {path.name for path in (site / "preview").iterdir()} == {"index.html", *data["sheets"]}


def test_controls_have_names(page):
    tags = Parts(page).tags
    named = [found for tag, found in tags if tag == "input"]
    assert len(named) == 2 and all("aria-label" in found and "aria-describedby" in found for found in named)
    ids = {found["id"] for _, found in tags if "id" in found}
    assert {found["aria-describedby"] for _, found in tags if "aria-describedby" in found} <= ids
    assert {found["for"] for tag, found in tags if tag == "label"} <= ids
    assert all("aria-label" in found for tag, found in tags if tag == "canvas")
    assert ("html", {"lang": "en"}) in tags and "noscript" in dict(tags)


def test_first_page_and_explorers_link_the_preview(site):
    assert 'href="preview/index.html"' in (site / "index.html").read_text(encoding="utf-8")
    explorers = sorted((site / "nbs" / "apps").glob("*.html"))
    assert [path.stem for path in explorers] == ["inversion", "motion", "photo", "scene", "start"]
    for path in explorers: assert 'href="../../preview/index.html"' in path.read_text(encoding="utf-8")
    assert "../preview/index.html" not in (site / "nbs" / "40_motion.html").read_text(encoding="utf-8")


def test_a_site_without_preview_does_not_link_one(tmp_path):
    first = build_site(tmp_path, only=("motion",))
    for path in first, tmp_path / "nbs" / "apps" / "motion.html":
        assert "preview/index.html" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("wrong, says", [
    (dict(scenes=()), "needs scenes"), (dict(details=(1, 1)), "needs details, each of them once"),
    (dict(times=1), "at least 2 times"), (dict(period=-1.0), "a positive time"),
    (dict(direction="noon"), "Unknown direction 'noon'"), (dict(horizon=1.5), "horizon lies between"),
    (dict(lights=("noon",)), "No light is called 'noon'"), (dict(lights=("tour",)), "one style, not tour")])
def test_wrong_grids_are_refused(networks, tmp_path, wrong, says):
    with pytest.raises(InputError, match=says):
        write_preview(tmp_path / "p", replace(GRID, **wrong), *networks, halves)
    assert not (tmp_path / "p").exists()


def test_networks_that_do_not_fit_are_refused(networks, tmp_path):
    A = Approximator(LightingConfig(CONFIG.w_dim, 2, depth=2)).eval()
    with pytest.raises(InputError, match="has 2 numbers of z_dyn, the generator 3"):
        write_preview(tmp_path / "p", GRID, networks[0], A, halves)
    (tmp_path / "file").write_text("here already")
    with pytest.raises(InputError): write_preview(tmp_path / "file", GRID, *networks, halves)
