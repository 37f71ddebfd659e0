"""The user study: plans are balanced, intervals cover what they promise, the paper's tables go through the
analysis, and simulated votes are no evidence."""
import json
from collections import Counter

import choix
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from study_material import a_vote, small_study

from deeplandscape.core import InputError
from deeplandscape.report.figures import beside, published
from deeplandscape.study import commands
from deeplandscape.study.analysis import agreement_of_votes, analyse_study, bradley_terry, gains, win_shares
from deeplandscape.study.ingest import ingest_votes, votes_that_count
from deeplandscape.study.intervals import share_interval, wilson
from deeplandscape.study.material import StudyItem
from deeplandscape.study.plan import (ABLATION, NOT_IN_PAPER, OURS, PARTS, StudyRules, balanced_sides,
                                      check_rules, cut_seats, make_study, one_round, read_study)
from deeplandscape.study.power import CLIPS, EACH, largest_correlation, paper_difference, paper_intervals
from deeplandscape.study.results import NO_VOTES, STUDY_RESULTS, state_of_votes, with_paper_intervals
from deeplandscape.study.simulation import (SimulatedPeople, coverage_of, simulate_votes, true_scale,
                                            true_win_share)
from deeplandscape.study.votes import check_vote, read_journal

QUALITY = {"SG": -0.8, "AL (no int)": -0.2, "Real": 0.3, "Ours (EOIF)": 0.5, "Ours (EOIFS)": 0.4}
PAIRS = [(a, b) for a in list(QUALITY)[:3] for b in OURS] + [OURS]


def listed(systems, items, lengths=(100, 200)):
    clips = [dict(system=s, item=f"{i:02d}", setting="", frames=n, scrambled=x, file="", sha256="")
             for s in systems for i in range(items) for n in lengths for x in (False, True)]
    return dict(clips=clips, items={})


# ------------------------------------------------------------------------------------------------ plans
@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 99))
def test_a_round_asks_everything_once_and_spreads_it(pairs, items, seed):
    order = one_round(pairs, items, np.random.default_rng(seed))
    assert sorted(order) == [(p, j) for p in range(pairs) for j in range(items)]
    for start in range(0, len(order) - pairs + 1, pairs):
        assert len({p for p, _ in order[start:start + pairs]}) == pairs


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(2, 12), st.integers(1, 6), st.integers(2, 11), st.integers(0, 99))
def test_sides_are_balanced_for_every_question_seat_and_pair(pairs, items, each, size, seed):
    rng = np.random.default_rng(seed)
    edges = [(q, (r, i)) for r in range(each)
             for i, seat in enumerate(cut_seats(one_round(pairs, items, rng), size)) for q in seat]
    sides = [1 if turned else -1 for turned in balanced_sides(edges, {q: q[0] for q, _ in edges})]
    for key in (lambda e: e[0], lambda e: e[1], lambda e: e[0][0]):
        off = Counter()
        for edge, side in zip(edges, sides): off[key(edge)] += side
        assert max(abs(v) for v in off.values()) <= 1


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 20), st.integers(1, 7), st.integers(2, 14), st.integers(0, 2))
def test_every_plan_keeps_its_caps(items, assessors, questions, gold):
    if gold >= questions: return
    plan = make_study(listed(("Real", *OURS), items), ("short", "fooling"),
                      StudyRules(assessors=assessors, questions=questions, gold=gold))
    asked = Counter()
    for seat in plan["seats"]:
        shown = [q for page in seat["pages"] for q, _ in page]
        golden = [q for q in shown if plan["questions"][q]["gold"]]
        assert len(shown) <= questions and len(set(shown)) == len(shown) and len(golden) == gold
        assert len({plan["questions"][q]["part"] for q in shown}) == 1
        asked.update(set(shown) - set(golden))
    assert set(asked.values()) == {assessors}
    assert set(asked) == {q for q, v in plan["questions"].items() if not v["gold"]}


def test_synthetic_videos_are_on_pages_of_four():
    plan = make_study(listed(ABLATION, 20), ("ablation",))
    assert all(len(page) <= 4 for seat in plan["seats"] for page in seat["pages"])
    assert max(len(s["pages"]) for s in plan["seats"]) == 3
    assert not any(plan["questions"][q]["gold"] and len(seat["pages"]) == 0
                   for seat in plan["seats"] for page in seat["pages"] for q, _ in page)


def test_a_plan_says_what_it_leaves_out_and_refuses_what_it_cannot_do():
    plan = make_study(listed(("Real", "Ours (EOIF)"), 3), ("short", "ablation"), StudyRules(gold=1))
    assert "short: no clips of SG" in plan["missing"]
    assert "ablation: no pair of systems has clips" in plan["missing"] and list(plan["parts"]) == ["short"]
    with pytest.raises(InputError, match="no two systems"): make_study(listed(("Real",), 3), ("short",))
    with pytest.raises(InputError, match="gold questions are planned"):
        make_study(listed(("Real", "Ours (EOIF)"), 1), ("short",), StudyRules(gold=5))
    with pytest.raises(InputError, match="assessors"): check_rules(StudyRules(assessors=0))
    assert (make_study(listed(("Real", "Ours (EOIF)"), 3), ("short",), StudyRules(seed=1))["hash"]
            != make_study(listed(("Real", "Ours (EOIF)"), 3), ("short",))["hash"])


def test_parts_name_what_the_published_tables_name():
    for part in PARTS.values():
        methods = set(published(part.shown).method) | set(NOT_IN_PAPER)
        assert {s for pair in part.pairs for s in pair} | set(part.systems) <= methods, part.shown


# ------------------------------------------------------------------------------------------------ votes
TINY = make_study(listed(("Real", "Ours (EOIF)"), 3), ("short",), StudyRules(gold=1))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["plan", "assessor", "question", "answer", "seconds", "waited",
                                        "plays", "stalls", "by", "width", "machine", "more"]), st.none()
                       | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())))
def test_nothing_but_a_vote_is_a_vote(changed):
    plan = TINY
    good = a_vote(plan, "assessor-1", plan["seats"][0]["pages"][0][0][0])
    record = good | changed
    try: vote = check_vote(record, plan)
    except InputError: return
    assert set(vote) == set(good) and vote["answer"] in ("left", "right", "none")
    assert 0 <= vote["seconds"] <= 86400 and vote["machine"] in (True, False)
    json.dumps(vote, allow_nan=False)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_a_damaged_journal_never_raises(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("damaged") / "journal.jsonl"
    path.write_bytes(b'{"kind": "vote", "n": 1}\n' + content)
    records, _ = read_journal(path)
    assert records[0] == dict(kind="vote", n=1) or b"\n" not in content


def test_votes_of_another_plan_or_seat_stop_the_ingest(tmp_path):
    plan = make_study(listed(("Real", "Ours (EOIF)"), 4), ("short",),
                      StudyRules(assessors=2, questions=4, gold=1))
    own = [q for q, _ in plan["seats"][0]["pages"][0]]
    other = next(q for seat in plan["seats"] for page in seat["pages"] for q, _ in page if q not in own)
    def saved(**changed):
        (tmp_path / "a.json").write_text(
            json.dumps(dict(plan=plan["hash"], assessor="assessor-1", seat=0,
                            votes=[a_vote(plan, "assessor-1", own[0])]) | changed))
        return [tmp_path / "a.json"]
    assert len(ingest_votes(plan, saved())[0]) == 1
    with pytest.raises(InputError, match="was not asked"):
        ingest_votes(plan, saved(votes=[a_vote(plan, "assessor-1", other)]))
    with pytest.raises(InputError, match="another plan"):
        ingest_votes(plan, saved(votes=[a_vote(plan, "assessor-1", own[0]) | dict(plan="0" * 64)]))
    with pytest.raises(InputError, match="no seat 99"): ingest_votes(plan, saved(seat=99))
    with pytest.raises(InputError, match="has the fields"): ingest_votes(plan, saved(votes=["left"]))
    with pytest.raises(InputError, match="cannot be read"): ingest_votes(plan, [tmp_path / "nothing.json"])


# ------------------------------------------------------------------------------------------------ intervals
@given(st.integers(1, 400), st.floats(0, 1))
def test_wilson_is_that_of_scipy(n, share):
    x = round(share * n)
    exact = stats.binomtest(x, n).proportion_ci(method="wilson")
    assert np.allclose(wilson(x / n, n), (exact.low, exact.high))


def test_bradley_terry_is_that_of_choix():
    votes = votes_that_count(*_study(3), machines=True)[0]
    scale = bradley_terry(votes, StudyRules(draws=20)).set_index("system").quality
    names = sorted(scale.index)
    data = [(names.index(a), names.index(b)) if w else (names.index(b), names.index(a))
            for a, b, w in zip(votes["first"], votes["second"], votes.won)]
    half = [(i, j) for a, b in {tuple(p) for p in votes[["first", "second"]].values}
            for i, j in ((names.index(a), names.index(b)), (names.index(b), names.index(a)))]
    # everything twice, so that half a vote is one
    exact = choix.opt_pairwise(len(names), data * 2 + half, alpha=1e-9)
    assert np.allclose(exact - exact.mean(), scale[names], atol=1e-3)


def _study(seed, parts=("short",), people=SimulatedPeople(QUALITY), items=24, **rules):
    plan = make_study(listed(people.quality, items), parts, StudyRules(draws=100, **rules))
    return plan, simulate_votes(plan, people, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name, people",
                         [("alike", SimulatedPeople(QUALITY, photograph=0, taste=0, lean=0, lean_spread=0,
                                                    lapse=0)), ("as people are", SimulatedPeople(QUALITY)),
                          ("leaning and lapsing", SimulatedPeople(QUALITY, photograph=1.0, taste=1.0,
                                                                  lean=0.8, lean_spread=0.5, lapse=0.1))])
def test_intervals_cover_what_they_promise(name, people):
    """The truth of a simulated population lies in the 95 % intervals of win shares, fooling ratios and scale
    in 92 to 99.5 of 100 studies."""
    plan, rules, n = make_study(listed(QUALITY, 24), ("short", "fooling")), StudyRules(draws=100), 60
    truth, single, scale = ({p: true_win_share(people, *p) for p in PAIRS},
                            {s: true_win_share(people, s) for s in QUALITY}, true_scale(people, PAIRS))

    def measure(kept):
        short, alone = kept[kept.part == "short"], kept[kept.part == "fooling"]
        wins = win_shares(short, rules)
        wins = wins[[(r.row, r.column) in truth for r in wins.itertuples()]]
        return pd.concat([wins.assign(what="wins", truth=[truth[r.row, r.column] for r in wins.itertuples()]),
                          win_shares(alone, rules).assign(what="fooling ratios",
                                                          truth=lambda t: t.row.map(single)), bradley_terry(
                              short, rules).assign(what="scale", truth=lambda t: t.system.map(scale))])[
            ["what", "truth", "low", "high"]]
    covered = coverage_of(plan, people, n, measure).groupby("what").held.mean()
    print(f"{name}: " + ", ".join(f"{what} {share:.3f}" for what, share in covered.items()))
    assert covered.between(0.92, 0.995).all(), covered


@pytest.mark.slow
def test_gains_cover_what_they_promise():
    people = SimulatedPeople(dict(zip(ABLATION, (-0.6, -0.2, -0.15, 0.0, 0.3))))
    plan, rules, steps = make_study(listed(ABLATION, 30),
                                    ("ablation",)), StudyRules(draws=100), tuple(zip(ABLATION[1:], ABLATION))
    expected = [true_win_share(people, a, b) - 0.5 for a, b in steps]
    covered = coverage_of(plan, people, 100,
                          lambda kept: gains(kept, steps, rules).assign(truth=[*expected, sum(expected)]))
    shares = covered[covered.step != "sum"].held.mean(), covered[covered.step == "sum"].held.mean()
    print("gains: steps {:.3f}, their sum {:.3f}".format(*shares))
    assert all(0.92 <= share <= 0.995 for share in shares)


def test_a_lean_to_the_left_shifts_no_share():
    """Sides are balanced, so assessors who nearly always choose left give every system about one half of the
    votes."""
    plan, votes = _study(0, people=SimulatedPeople(QUALITY, lean=8.0, lapse=0), most_gold_failures=12)
    wins = win_shares(votes_that_count(plan, votes, machines=True)[0], StudyRules(draws=50))
    assert wins.share.between(0.4, 0.6).all()


def test_gold_questions_remove_those_who_do_not_look():
    plan, votes = _study(0, people=SimulatedPeople(QUALITY, spammers=0.3, lapse=0.0))
    kept, lost = votes_that_count(plan, votes, machines=True)
    share = lost["assessor failed gold questions"] / len(votes)
    assert 0.13 < share < 0.32                             # three in four of them, with two gold questions


def test_agreement_of_coins_is_none_and_of_one_mind_is_all():
    plan, votes = _study(0, people=SimulatedPeople(dict.fromkeys(QUALITY, 0.0),
                                                   photograph=0, taste=0, lean=0, lean_spread=0))
    kept = votes_that_count(plan, votes, machines=True)[0]
    found = agreement_of_votes(kept, StudyRules(draws=50))
    assert found["low"] < 0 < found["high"] or abs(found["alpha"]) < 0.05
    assert agreement_of_votes(kept.assign(won=(kept["first"] == "SG") * 1.0),
                              StudyRules(draws=50))["alpha"] == 1


def test_one_vote_says_nothing():
    share, low, high = share_interval([1], ["a"], ["x"])
    assert share == 1 and low == 0 and high == 1
    assert all(np.isnan(v) for v in share_interval([], [], []))


# ------------------------------------------------------------------------------------------------ evidence
def test_simulated_votes_are_never_evidence(tmp_path):
    plan, votes = _study(1)
    assert votes.machine.all()
    people, machines = analyse_study(plan, votes), analyse_study(plan, votes, machines=True)
    assert not people["evidence"] and not people["votes"] and people["numbers"].empty
    assert not machines["evidence"] and machines["votes"] > 0
    mixed = votes.assign(machine=votes.assessor != votes.assessor.iloc[0])
    assert analyse_study(plan, mixed)["people"] <= 1


def test_figures_have_no_votes_until_people_give_them(tmp_path):
    state = lambda shown: state_of_votes(with_paper_intervals(beside(shown, STUDY_RESULTS[shown], tmp_path)))
    assert {state(shown) for shown in STUDY_RESULTS} == {NO_VOTES}
    plan, votes = _study(1, parts=("short", "fast", "fooling"))
    for shown, own in analyse_study(plan, votes.assign(machine=False))["numbers"].groupby("shown"):
        own.drop(columns="shown").to_csv(tmp_path / f"{STUDY_RESULTS[shown]}.csv", index=False)
        (tmp_path / f"{STUDY_RESULTS[shown]}.json").write_text("{}")
    assert ({shown: state(shown) for shown in STUDY_RESULTS} == dict.fromkeys(STUDY_RESULTS, NO_VOTES)
            | {"fig08_user_study": f"{8 + 5} numbers", "fig10_user_study_b": "8 numbers"})


# ------------------------------------------------------------------------------------------------ the paper
def by_paper(name, **assumed):
    return paper_intervals(published(name), **assumed).set_index(["method", "condition"])


def test_which_differences_of_figure_8_survive():
    "345 votes on each pair (69 clips, five assessors), correlated by 0.2 on one clip."
    wins = by_paper("fig08_user_study").query("metric == 'wins'").separated
    short, long = "short (100 frames), against ", "long (200 frames), against "
    for ours in ("EOIF", "EOIFS"):
        for method in ("SG", "AL (no int)", "AL (+ style)", "TS"): assert wins[method, long + ours]
        for method in ("AL (+ style)", "TS"): assert wins[method, short + ours]
        assert not wins["AL (no int)", short + ours] and not wins["Real", long + ours]
    assert wins["SG", short + "EOIF"] and not wins["SG", short + "EOIFS"]
    assert not wins["Ours (EOIF)", short + "EOIFS"] and not wins["Ours (EOIF)", long + "EOIFS"]


def test_which_differences_of_figure_10_survive():
    found = by_paper("fig10_user_study_b")
    assert set(found[~found.separated].index.get_level_values(0)) == {"Ours (EOIF)", "Ours (EOIFS)"}
    assert all(found.low["Real", against] > 0.5 for against in ("against EOIF", "against EOIFS"))


def test_what_independent_votes_would_have_separated():
    wins = by_paper("fig08_user_study", correlation=0.0).query("metric == 'wins'")
    assert wins.separated["SG", "short (100 frames), against EOIFS"]
    assert not wins.separated["Ours (EOIF)", "long (200 frames), against EOIFS"]
    for (method, condition), row in wins.iterrows():
        rho = largest_correlation(row.value)
        assert np.isnan(rho) == (not row.separated)
        if 0 < rho < 1:
            edge = [by_paper("fig08_user_study", correlation=float(np.clip(rho + step, 0, 1)))
                    .query("metric == 'wins'").separated[method, condition] for step in (-1e-6, 1e-6)]
            assert edge == [True, False]


def test_the_papers_numbers_through_the_analysis_itself():
    """Votes that give exactly the printed share, five on each of 69 clips by 345 assessors: the analysis
    finds the share, and Wilson's interval where clips do not differ."""
    for printed in (0.26, 0.44, 0.48):
        won = np.zeros(CLIPS * EACH)
        won[np.linspace(0, len(won) - 1, round(printed * len(won))).astype(int)] = 1
        share, low, high = share_interval(won, np.arange(len(won)) // EACH, np.arange(len(won)), draws=300)
        assert abs(share - printed) < 0.005
        plain = wilson(share, len(won))
        assert low <= plain[0] and high >= plain[1] and high - low < 1.6 * (plain[1] - plain[0])


def test_fooling_ratios_that_differ():
    ratios = published("fig08_user_study").query("metric == 'fooling ratio'").set_index("method").value
    lower = {m: paper_difference(ratios["Ours (EOIF)"], v)[1] for m, v in ratios.items()}
    assert all(lower[m] > 0 for m in ("SG", "TS", "AL (+ style)", "Ours (Synth.)"))
    assert all(lower[m] < 0 for m in ("AL (no int)", "Real", "Ours (EOIFS)"))


# -------------------------------------------------------------------------------------- from files to figures
def test_the_whole_way_through_files(tmp_path):
    plan = small_study(tmp_path, ("short", "fooling"), items=4, frames=4, assessors=4, questions=7, gold=1)
    assert read_study(tmp_path / "plan.json") == plan
    votes = simulate_votes(plan, SimulatedPeople({"Real": 0.0, "Ours (EOIF)": 1.0, "Ours (EOIFS)": 0.5}))
    for who, own in votes.groupby("assessor"):
        records = [a_vote(plan, who, v.question, v.answer, seconds=v.seconds,
                          waited=v.waited, by="clock", machine=True) for v in own.itertuples()]
        (tmp_path / f"{who}.json").write_text(
            json.dumps(dict(plan=plan["hash"], assessor=who, seat=int(own.seat.iloc[0]), votes=records)))
    read, counts = ingest_votes(plan, sorted(tmp_path.glob("simulated-*.json")))
    assert counts["read"] == len(votes) == len(read)
    key = ["assessor", "question"]
    assert (read.sort_values(key).won.values == votes.sort_values(key).won.values).all()


def test_samples_of_the_generator_differ_by_photograph_and_not_by_run(monkeypatch):
    "A preparation that goes on after an interruption must neither repeat a sample nor draw other ones."
    monkeypatch.setattr(commands, "_sampler", lambda G, side, seed: lambda number: [seed + number] * 200)
    items = [StudyItem(name, torch.zeros(3, 8, 8)) for name in ("china", "landscape 0", "landscape 1")]
    whole, late = commands._Drawn(None, 8, 3), commands._Drawn(None, 8, 3)
    numbers = [whole(item, 100, 1.0) for item in items]
    assert len({n[0] for n in numbers}) == 3 and late(items[2], 100, 1.0) == numbers[2]
