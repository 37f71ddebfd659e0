"""Serving the explorers as a visitor gets them, and a headless Chromium to look at them."""
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "there is no Chromium on this machine" if CHROMIUM is None else next(
    (f"{name} is not installed: pip install {name}" for name in ("voila", "playwright")
     if not find_spec(name)), "")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
PATIENCE = 240                                         # s; a page is there after 5 s on a machine at leisure


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_port(port, server):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert server.poll() is None, "the server ended by itself"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0: return
        time.sleep(0.2)
    raise TimeoutError("the server does not answer")


@contextmanager
def served(folder, *options, **environment):
    "`deeplandscape explore` with these options, its log in `folder`: gives the address."
    port = free_port()
    command = [sys.executable, "-c", "from deeplandscape.cli import main; main()", "explore", "--no-browser",
               f"--port={port}", *options]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **environment)
    with open(Path(folder) / f"server{port}.log", "w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            wait_for_port(port, server)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait(30)


@contextmanager
def chromium():
    "A headless Chromium with a profile of its own, removed afterwards."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        try: yield browser
        finally: browser.close()


@contextmanager
def opened(browser, width=1366, height=900):
    "A page that reaches this machine only, on and off line alike."
    page = browser.new_page(viewport=dict(width=width, height=height), accept_downloads=True)
    page.set_default_timeout(PATIENCE * 1000)
    page.route("**/*", lambda route: route.continue_() if "//127.0.0.1" in route.request.url
               else route.abort())
    try: yield page
    finally: page.close()
