"""The server of the user study: killed at random moments it loses no vote, fifty at once, a full disk, and
what it refuses."""
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from study_material import a_vote, small_study

from deeplandscape.core import InputError
from deeplandscape.study.ingest import ingest_votes
from deeplandscape.study.page import study_sheet
from deeplandscape.study.plan import read_study
from deeplandscape.study.server import serve_study
from deeplandscape.study.votes import read_journal, Register

ROOT = Path(__file__).resolve().parents[1]
SERVE = ("import resource, sys\nfrom pathlib import Path\nfrom "
         "deeplandscape.study.plan import read_study\nfrom deeplandscape.study.server import serve_study\n"
         "folder, port, most = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])\n"
         "server = serve_study(read_study(folder / 'plan.json'), folder, folder / 'votes', port=port)\n"
         "if most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))\n"
         "print('ready', flush=True)\nserver.serve_forever()")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Material and a plan of 60 seats."
    path = tmp_path_factory.mktemp("study")
    small_study(path, items=4, frames=4, assessors=30, questions=8, gold=1, least_played=0)
    return path


@pytest.fixture
def study(folder, tmp_path):
    "The same under a folder of its own, so that each test has its own journal."
    (tmp_path / "clips").symlink_to(folder / "clips")
    (tmp_path / "plan.json").write_bytes((folder / "plan.json").read_bytes())
    return tmp_path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(study, port, most=0):
    "A server in a process of its own, ready."
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(study), str(port), str(most)],
                              stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    for line in server.stdout:
        if line.startswith("ready"): return server
    raise AssertionError("the server did not start")


def post(port, path, body, timeout=10):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally: connection.close()


class Person(threading.Thread):
    "Somebody who sends each vote until it is acknowledged, as the page does."
    def __init__(self, port, plan, name, pause=0.0):
        super().__init__(daemon=True)
        self.pause, self.port, self.plan, self.me, self.acknowledged, self.status = (pause, port,
                                                                                     plan, name, [], None)

    def insist(self, path, body):
        while True:
            try: return post(self.port, path, body)
            except (OSError, http.client.HTTPException): time.sleep(0.02)

    def run(self):
        self.status, sheet = self.insist("/api/seat", dict(assessor=self.me, machine=True))
        if self.status != 200: return
        self.seat = sheet["seat"]
        for page in range(len(sheet["pages"])): self.insist("/api/page", dict(assessor=self.me, page=page))
        for q in (q["id"] for page in sheet["pages"] for q in page["questions"]):
            time.sleep(self.pause)              # people watch before they answer
            status, _ = self.insist("/api/vote", a_vote(self.plan, self.me, q, machine=True))
            assert status == 200
            self.acknowledged.append((self.me, q))


def recorded(study):
    records, broken = read_journal(study / "votes" / "journal.jsonl")
    return [(r["assessor"], r["question"]) for r in records if r["kind"] == "vote"], records, broken


@pytest.mark.slow
def test_killed_at_any_moment_loses_no_vote(study):
    plan, port, rng = read_study(study / "plan.json"), free_port(), random.Random(0)
    people, server, kills = [Person(port, plan, f"person-{i:03d}", pause=0.2)
                             for i in range(20)], start(study, port), 0
    for p in people: p.start()
    while any(p.is_alive() for p in people) and kills < 8:
        time.sleep(rng.uniform(0.01, 0.25))
        server.send_signal(signal.SIGKILL)
        server.wait()
        kills += 1
        server = start(study, port)
    for p in people: p.join(60)
    server.send_signal(signal.SIGKILL)
    server.wait()
    acknowledged = [vote for p in people for vote in p.acknowledged]
    written, records, broken = recorded(study)
    seats = [r["seat"] for r in records if r["kind"] == "seat"]
    print(f"{kills} kills, {len(acknowledged)} votes acknowledged, {len(set(acknowledged) - set(written))} "
          f"lost, {len(written) - len(set(written))} double, {broken} torn lines")
    assert kills >= 3 and not set(acknowledged) - set(written)
    assert len(written) == len(set(written)) == len(acknowledged) and len(seats) == len(set(seats)) == 20


def test_fifty_at_once(study):
    plan = read_study(study / "plan.json")
    server = serve_study(plan, study, study / "votes", port=0, say=lambda line: None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    people = [Person(server.server_address[1], plan, f"person-{i:03d}") for i in range(50)]
    for p in people: p.start()
    for p in people: p.join(60)
    server.shutdown(); server.server_close()
    written, _, broken = recorded(study)
    assert [p.status for p in people] == [200] * 50 and len({p.seat for p in people}) == 50
    assert sorted(written) == sorted(v for p in people for v in p.acknowledged) and not broken
    assert len(written) == sum(len(page) for s in {p.seat for p in people}
                               for page in plan["seats"][s]["pages"])


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on the size of files")
def test_full_disk_refuses_and_leaves_whole_lines(study):
    plan, port = read_study(study / "plan.json"), free_port()
    server = start(study, port, most=2000)
    try:
        status, sheet = post(port, "/api/seat", dict(assessor="person-000", machine=True))
        assert post(port, "/api/page", dict(assessor="person-000", page=0))[0] == 200
        answers = [post(port, "/api/vote", a_vote(plan, "person-000", q["id"], machine=True))[0]
                   for page in sheet["pages"] for q in page["questions"]]
    finally: server.kill(); server.wait()
    written, _, broken = recorded(study)
    assert status == 200 and set(answers) == {200, 507} and len(written) == answers.count(200) and broken == 0
    server = start(study, port)  # there is room again: the page sends what was not acknowledged
    try:
        assert {post(port, "/api/vote", a_vote(plan, "person-000", q["id"], machine=True))[0]
                for page in sheet["pages"] for q in page["questions"]} == {200}
    finally: server.kill(); server.wait()
    assert len(recorded(study)[0]) == len(answers)


def test_early_and_late_answers_are_refused_and_noted(tmp_path):
    "By the server's own clock, through a restart, and from a second device."
    plan, now = small_study(tmp_path, frames=4, items=2, gold=1), [1000.0]
    register = Register(plan, tmp_path / "votes" / "journal.jsonl", clock=lambda: now[0])
    register.take_seat("person-000", True)
    asked = list(register.asked[0])
    limit = register.begin_page("person-000", 0)
    def refused(question, match, **changed):
        with pytest.raises(InputError, match=match):
            register.add(a_vote(plan, "person-000", question, machine=True, **changed))
    now[0] += 2.9                                       # 0.9 of a clip of 100 frames is 3 s
    refused(asked[0], "before the clips")
    now[0] += 0.2
    refused(asked[0], "before the clips", seconds=2.9)  # what it says of itself
    assert register.add(a_vote(plan, "person-000", asked[0], machine=True))
    refused(asked[1], "before the clips")               # two cannot have been seen yet
    register.journal.close()
    register = Register(plan, tmp_path / "votes" / "journal.jsonl", clock=lambda: now[0])
    now[0] = 1000.0 + limit + plan["rules"]["grace_seconds"] - 0.1
    assert register.left("person-000") == {0: 0.0} and register.begin_page("person-000", 0) == 0.0
    assert register.add(a_vote(plan, "person-000", asked[1], machine=True))
    now[0] += 0.2
    refused(asked[2], "after the time")
    assert register.add(a_vote(plan, "person-000", asked[2], "none", by="clock", seconds=0, machine=True))
    register.journal.close()
    votes, counts = ingest_votes(plan, [tmp_path / "votes" / "journal.jsonl"])
    assert counts == dict(read=3, repeated=0, broken=0, early=3, late=1) and len(votes) == 3


def test_two_servers_do_not_share_a_journal_nor_a_port(study):
    plan, quiet = read_study(study / "plan.json"), dict(say=lambda line: None)
    first = serve_study(plan, study, study / "votes", port=0, **quiet)
    try:
        with pytest.raises(InputError, match="Another server"):
            serve_study(plan, study, study / "votes", port=0, **quiet)
        with pytest.raises(InputError, match="another port"):
            serve_study(plan, study, study / "other", port=first.server_address[1], **quiet)
    finally: first.server_close()
    serve_study(plan, study, study / "votes", port=0, **quiet).server_close()


def test_a_journal_of_another_plan_is_refused(study, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    plan = small_study(other, items=2, frames=4, seed=5)
    server = serve_study(plan, other, study / "votes", port=0, say=lambda line: None)
    server.register.take_seat("person-000", True)
    server.server_close()
    with pytest.raises(InputError, match="another plan"):
        serve_study(read_study(study / "plan.json"), study, study / "votes", port=0)


def raw(port, request):
    "The first line of the answer to these bytes."
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        wire.sendall(request)
        return wire.recv(4096).split(b"\r\n")[0].decode()


@pytest.mark.parametrize("path",
                         ["/../plan.json", "/..%2f..%2fetc/passwd", "//etc/passwd", "/clips/../plan.json",
                          "/votes/journal.jsonl", "/clips/%00", "/study.js/..", "/plan.json"])
def test_no_path_leads_elsewhere(study, path):
    server = serve_study(read_study(study / "plan.json"), study,
                         study / "votes", port=0, say=lambda line: None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert " 404 " in raw(server.server_address[1],
                              f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    finally: server.shutdown(); server.server_close()


def test_what_else_is_refused(study):
    server = serve_study(read_study(study / "plan.json"), study,
                         study / "votes", port=0, say=lambda line: None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    head = lambda more: (f"POST /api/vote HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: "
                         f"application/json\r\n{more}\r\n".encode())
    try:
        assert " 413 " in raw(port, head("Content-Length: 1000000000\r\n"))
        assert " 411 " in raw(port, head("Transfer-Encoding: chunked\r\n"))
        assert " 411 " in raw(port, head("Content-Length: -5\r\n"))
        assert " 403 " in raw(port, head("Origin: http://127.0.0.1:1\r\nContent-Length: 2\r\n") + b"{}")
        assert " 403 " in raw(port, b"GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n")
        assert " 501 " in raw(port, b"DELETE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert " 200 " in raw(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    finally: server.shutdown(); server.server_close()
    assert not recorded(study)[1]


def test_the_pages_policy_forbids_other_places(study):
    server = serve_study(read_study(study / "plan.json"), study,
                         study / "votes", port=0, say=lambda line: None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request("GET", "/")
    policy = connection.getresponse().getheader("Content-Security-Policy")
    server.shutdown(); server.server_close()
    assert "default-src 'none'" in policy and "http" not in policy and "unsafe" not in policy


def test_sheets_give_nothing_away(study):
    plan = read_study(study / "plan.json")
    for seat in range(len(plan["seats"])):
        text = json.dumps(study_sheet(plan, seat))
        assert not any(word in text for word in ("Real", "Ours", "EOIF", "gold", "scrambled", "scene"))
