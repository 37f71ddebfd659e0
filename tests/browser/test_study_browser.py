"""The user study in a real browser: whole sessions by keyboard and by mouse, on a phone and on a desk, over a
slow network, with reloads and a killed server."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from serving import MISSING, ROOT, chromium, free_port, opened
from study_material import small_study

from deeplandscape.study.analysis import analyse_study
from deeplandscape.study.ingest import ingest_votes, votes_that_count
from deeplandscape.study.page import export_study, notebook_page, study_frame
from deeplandscape.study.plan import read_study
from deeplandscape.study.votes import read_journal

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
PHONE, DESK = (390, 844), (1400, 900)
SHOTS = os.environ.get("STUDY_SCREENSHOTS")            # a folder for pictures of what the tests saw


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    "Clips of 100 frames and two plans: pairs, and single videos."
    folder = tmp_path_factory.mktemp("study")
    plan = small_study(folder, ("short",), items=4, frames=100, assessors=12, questions=5, gold=1)
    return folder, plan


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser: yield browser


class Server:
    """`deeplandscape study serve` in a process of its own, which can be killed and started again on the same
    port."""
    def __init__(self, plan, results):
        self.plan, self.results, self.port, self.process = plan, results, free_port(), None

    def start(self):
        code = "from deeplandscape.cli import main; main()"
        command = [sys.executable, "-c", code, "study", "serve", str(self.plan),
                   "--results", str(self.results), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                        env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1"))
        for line in self.process.stdout:
            if "http://" in line: return f"http://127.0.0.1:{self.port}/"
        raise AssertionError("the server did not start")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(material, tmp_path):
    server = Server(material[0] / "plan.json", tmp_path / "votes")
    yield server
    if server.process and server.process.poll() is None: server.kill()


def shot(page, name):
    if SHOTS: page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def unlocked(page):
    page.locator("button[name=left]:not([disabled]), button[name=real]:not([disabled])").first.wait_for()
def question(page, n): page.get_by_text(f"uestion {n} of").wait_for()


def begin_by_keyboard(page):
    page.get_by_role("checkbox").wait_for()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("An example that does not count").wait_for()
    unlocked(page)
    page.keyboard.press("ArrowRight")                              # the wrong one: explained, and shown again
    page.get_by_text("Once more").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("An example that does not count").wait_for()
    unlocked(page)
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Start").wait_for()
    page.keyboard.press("Enter")


def begin_by_mouse(page, page_began=False):
    page.get_by_text("I have read this").click()
    page.get_by_role("button", name="Begin").click()
    page.get_by_text("An example that does not count").wait_for()
    unlocked(page)
    page.get_by_role("button", name="Left is more realistic").click()
    if not page_began: page.get_by_role("button", name="Start").click()    # else its time runs already


def recorded(server):
    return [r for r in read_journal(server.results / "journal.jsonl")[0] if r["kind"] == "vote"]


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_whole_session_by_keyboard(browser, server, material, size):
    address, plan = server.start(), material[1]
    with opened(browser, *size) as page:
        elsewhere = []
        page.on("request", lambda request: elsewhere.append(request.url)
                if not request.url.startswith((address, "blob:", "data:")) else None)
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(address)
        shot(page, f"welcome-{size[0]}")
        begin_by_keyboard(page)
        count = sum(map(len, plan["seats"][0]["pages"]))
        for n in range(1, count + 1):
            question(page, n)
            if n == 1:
                page.keyboard.press("ArrowLeft")                   # locked: nothing happens
                page.get_by_text("as soon as both videos").wait_for()
                shot(page, f"question-{size[0]}")
                assert page.locator("button[name=left]").is_disabled() and not recorded(server)
            unlocked(page)
            if n == 1: shot(page, f"unlocked-{size[0]}")
            page.keyboard.press("ArrowLeft" if n % 2 else "ArrowRight")
        page.get_by_text("All your answers are stored").wait_for()
        shot(page, f"thanks-{size[0]}")
        assert page.evaluate("document.documentElement.scrollWidth <= "
                             "innerWidth"), "the page is wider than the window"
    votes = recorded(server)
    assert [v["answer"] for v in votes] == ["left" if n % 2 else "right" for n in range(1, count + 1)]
    assert all(v["by"] == "keyboard" and v["machine"] and v["width"] == size[0]
               and v["plays"] >= 1 and v["seconds"] >= 100 / 30 - 0.2 for v in votes)
    assert not elsewhere and not problems


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_whole_session_by_mouse_with_reloads(browser, server, material, size):
    address, plan = server.start(), material[1]
    count = sum(map(len, plan["seats"][0]["pages"]))
    with opened(browser, *size) as page:
        page.goto(address)
        begin_by_mouse(page)
        for n in range(1, count + 1):
            question(page, n)
            if n == 3:
                clock = page.get_by_text("time left").inner_text()
                page.wait_for_timeout(1500)
                page.reload()                                      # in the middle of a question
                question(page, n)
                shot(page, f"reloaded-{size[0]}")
                assert page.get_by_text("time left").inner_text() < clock, "the clock went on"
            unlocked(page)
            page.get_by_role("button", name="Right is more realistic").click()
        page.get_by_text("All your answers are stored").wait_for()
        page.reload()
        page.get_by_text("All your answers are stored").wait_for()
    votes = recorded(server)
    assert len(votes) == len({v["question"] for v in votes}) == count
    assert all(v["by"] == "pointer" for v in votes)


def test_slow_network_shows_progress_and_both_players_start_together(browser, server, material):
    address = server.start()
    with opened(browser, *DESK) as page:
        wire = page.context.new_cdp_session(page)
        wire.send("Network.enable")
        wire.send("Network.emulateNetworkConditions",
                  dict(offline=False, latency=150, downloadThroughput=20_000, uploadThroughput=10_000))
        page.goto(address)
        page.get_by_text("I have read this").click()
        page.get_by_role("button", name="Begin").click()
        page.get_by_text(re.compile(r"Loading the videos: \d of 3")).wait_for()
        shot(page, "slow-1400")
        page.get_by_text("An example that does not count").wait_for()
        # no eval: the page's policy forbids it
        while not page.evaluate("[...document.querySelectorAll('video')].every(v => v.currentTime > 0.3)"):
            page.wait_for_timeout(100)
        apart = page.evaluate("Math.abs(document.querySelectorAll('video')[0].currentTime "
                              "- document.querySelectorAll('video')[1].currentTime)")
        assert apart < 0.15
        unlocked(page)
        page.keyboard.press("ArrowLeft")
        page.get_by_role("button", name="Start").click()
        question(page, 1)
        asked = []
        page.on("request", lambda request: asked.append(request.url)
                if request.url.endswith(".mp4") and not request.url.startswith("blob:") else None)
        # what plays is in memory
        assert page.evaluate("[...document.querySelectorAll('video')].every(v => v.src.startsWith('blob:'))")
        unlocked(page)
        page.keyboard.press("ArrowLeft")
        question(page, 2)
    assert not asked and len(recorded(server)) == 1


def test_server_killed_in_the_middle_loses_nothing(browser, server, material):
    address, plan = server.start(), material[1]
    count = sum(map(len, plan["seats"][0]["pages"]))
    with opened(browser, *DESK) as page:
        page.goto(address)
        begin_by_mouse(page)
        for n in range(1, count + 1):
            question(page, n)
            unlocked(page)
            if n in (2, 4): server.kill()                           # before the answer
            page.keyboard.press("ArrowLeft")
            if n == 2:
                page.get_by_text("The server cannot be reached").wait_for()
                shot(page, "unreachable-1400")
            if n in (2, 4): server.start()
        page.get_by_text("All your answers are stored").wait_for()
    votes = recorded(server)
    assert len(votes) == len({v["question"] for v in votes}) == count


def test_the_time_of_a_page_runs_out(browser, server, material):
    address = server.start()
    with opened(browser, *DESK) as page:
        page.clock.install()
        page.goto(address)
        begin_by_mouse(page)
        question(page, 1)
        unlocked(page)
        page.keyboard.press("ArrowLeft")
        question(page, 2)
        page.clock.fast_forward("20:00")
        page.get_by_text("The time of this page is over").wait_for()
        page.get_by_role("button", name="Go on").click()
        page.get_by_text("All your answers are stored").wait_for()
    assert [v["answer"] for v in recorded(server)] == ["left"] + ["none"] * 4


def test_names_focus_and_contrast(browser, server, material):
    address = server.start()
    with opened(browser, *DESK) as page:
        page.goto(address)
        page.get_by_role("checkbox").wait_for()
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.get_by_role("heading", level=1).count() == 1
        assert page.evaluate("document.activeElement.type") == "checkbox"
        begin_by_mouse(page)
        question(page, 1)
        assert page.locator("video[aria-label='left video']").count() == 1
        assert page.locator("img[alt]").count() == 1
        assert page.get_by_role("progressbar").get_attribute("aria-label") == "answered"
        assert page.locator("[role=status][aria-live=polite]").count() == 1
        assert page.evaluate("document.activeElement.tagName") == "H2"
        page.keyboard.press("p")
        assert page.get_by_role("button", name="Play").count() == 1
        page.keyboard.press("p")
        unlocked(page)
        contrast = page.evaluate("""() => {
            const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
            const light = c => {
                const [r, g, b] = c.match(/[\\d.]+/g).map(v => linear(v / 255))
                return 0.2126 * r + 0.7152 * g + 0.0722 * b }
            const ground = e => {
                for (; e; e = e.parentElement) {
                    const c = getComputedStyle(e).backgroundColor
                    if (!/, 0\\)$|transparent/.test(c)) return c }
                return 'rgb(255,255,255)' }
            const all = [...document.querySelectorAll('h2, p, span, button, figcaption')]
            return all.filter(e => e.textContent.trim()).map(e => {
                const a = light(getComputedStyle(e).color), b = light(ground(e))
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) }) }""")
        assert min(contrast) >= 4.5, contrast
        sizes = page.evaluate("[...document.querySelectorAll('button')].map(b "
                              "=> b.getBoundingClientRect().height)")
        assert min(sizes) >= 44


def test_an_opaque_id_goes_on_elsewhere(browser, server, material):
    "The link with the id continues in a browser that remembers nothing."
    address = server.start()
    with opened(browser, *DESK) as page:
        page.goto(address)
        begin_by_mouse(page)
        question(page, 1)
        unlocked(page)
        page.keyboard.press("ArrowLeft")
        question(page, 2)
        link = page.url
    assert re.search(r"#id=[A-Za-z0-9_-]{20}$", link)
    context = browser.new_context()
    page = context.new_page()
    page.goto(link)
    begin_by_mouse(page, page_began=True)
    question(page, 2)
    context.close()


@pytest.mark.parametrize("opened_as", ["file", "frame"])
def test_static_study_saves_its_answers(browser, material, tmp_path, opened_as):
    folder, plan = material
    if opened_as == "file":
        index = export_study(plan, folder, tmp_path / "static").as_uri() + "?seat=3"
    else:
        (tmp_path / "cell.html").write_text(study_frame(notebook_page(plan, folder, 3)))
        index = (tmp_path / "cell.html").as_uri()
    page = browser.new_page(viewport=dict(width=1400, height=900), accept_downloads=True)
    page.set_default_timeout(120_000)
    page.goto(index)
    inside = page if opened_as == "file" else page.frame_locator("iframe")
    inside.get_by_text("I have read this").click()
    inside.get_by_role("button", name="Begin").click()
    left = inside.locator("button[name=left]:not([disabled])")
    inside.get_by_text("An example that does not count").wait_for()
    left.click()
    inside.get_by_role("button", name="Start").click()
    for n in range(1, 6):
        inside.get_by_text(f"uestion {n} of").wait_for()
        left.click()
    with page.expect_download() as download: inside.get_by_role("button", name="Save the answers").click()
    saved = tmp_path / "answers.json"
    download.value.save_as(saved)
    if opened_as == "file": shot(page, "static-end")
    page.close()
    votes, counts = ingest_votes(plan, [saved])
    assert counts["read"] == 5 and set(votes.seat) == {3} and votes.machine.all()
    assert json.loads(saved.read_text())["plan"] == plan["hash"]


def test_single_videos(browser, tmp_path):
    plan = small_study(tmp_path, ("fooling",), items=2, frames=100, assessors=1, questions=7, gold=1,
                       least_played=0.4)
    server = Server(tmp_path / "plan.json", tmp_path / "votes")
    try:
        address = server.start()
        with opened(browser, *PHONE) as page:
            page.goto(address)
            page.get_by_text("I have read this").click()
            page.get_by_role("button", name="Begin").click()
            page.get_by_text("An example that does not count").wait_for()
            unlocked(page)
            page.get_by_role("button", name="It is not real").click()
            page.get_by_role("button", name="Start").click()
            question(page, 1)
            shot(page, "single-390")
            assert page.locator("video").bounding_box()["width"] > 300
            assert page.get_by_role("button", name="Pause").bounding_box()["width"] > 300
            unlocked(page)
            page.keyboard.press("ArrowLeft")
            question(page, 2)
        assert [v["answer"] for v in recorded(server)] == ["real"] and len(plan["seats"]) == 1
    finally: server.kill()


def scripted_session(browser, server, plan, count, kill_at=None):
    """So many assessors at once, each in a context of its own; they know gold, and prefer Ours (EOIFS), then
    Ours (EOIF)."""
    ranks = ("scrambled", "Real", "Ours (EOIF)", "Ours (EOIFS)", "in order")
    contexts = [browser.new_context(viewport=dict(width=PHONE[0] if i % 2 else DESK[0], height=850))
                for i in range(count)]
    pages = [context.new_page() for context in contexts]
    for page in pages:
        page.set_default_timeout(240_000)
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_text("I have read this").click()
        page.get_by_role("button", name="Begin").click()
    for page in pages:
        page.get_by_text("An example that does not count").wait_for()
        unlocked(page)
        page.keyboard.press("ArrowLeft")
        page.get_by_role("button", name="Start").click()
    seats = {r["assessor"]: r["seat"] for r in read_journal(server.results / "journal.jsonl")[0]
             if r["kind"] == "seat"}
    for n in range(1, 6):
        if n == kill_at: server.kill()
        for page in pages:
            question(page, n)
            asked, turned = [entry for p in plan["seats"][seats[page.url.split("id=")[1]]]["pages"]
                             for entry in p][n - 1]
            best = max(range(2), key=lambda i: ranks.index(plan["questions"][asked]["systems"][i]))
            unlocked(page)
            page.wait_for_timeout(400)  # a program that answers at once would be left out, as people who do
            page.keyboard.press("ArrowRight" if (best == 0) == bool(turned) else "ArrowLeft")
        if n == kill_at: time.sleep(0.5); server.start()
    for page in pages: page.get_by_text("All your answers are stored").wait_for()
    for context in contexts: context.close()


def test_twelve_scripted_assessors_from_page_to_table(browser, server, material):
    """Twelve in a real browser, the server killed in between; their votes are marked, and count only when
    programs are asked for."""
    server.start()
    plan = read_study(material[0] / "plan.json")
    for group, kill_at in enumerate((None, 3, None, 5)): scripted_session(browser, server, plan, 3, kill_at)
    votes, counts = ingest_votes(plan, [server.results / "journal.jsonl"])
    assert counts == dict(read=60, repeated=0, broken=0, early=0, late=0) and votes.assessor.nunique() == 12
    assert votes.machine.all()
    assert not votes_that_count(plan, votes)[1].get("assessor failed gold questions")
    assert analyse_study(plan, votes)["votes"] == 0
    found = analyse_study(plan, votes, machines=True)
    assert found["votes"] == 48 and found["people"] == 12 and not found["evidence"]
    assert (found["wins"].query("row == 'Ours (EOIFS)'").share == 1).all()
    assert list(found["scales"].system)[0] == "Ours (EOIFS)"
