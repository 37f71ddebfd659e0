"""The ablations' measurement: the share of variance, intervals over scenes and trainings, verdicts, files of
networks, and the notebooks that show them."""
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp, ttest_ind

from deeplandscape.experiments import ablations
from deeplandscape.experiments.ablations import (
    ablation_orderings, comparisons, difference, EMBEDDED_PAIR, frechet_replicates, generated_views, LAND,
    measure_models, NAMES, numbers_table, Protocol, rendered_views, replicates, ROW_OF, scene_terms, SHARE,
    SHARE_S, SKY, training_items, TRUTH, variance_terms, Views, with_family)
from deeplandscape.statistics import centred_interval, verdict
from deeplandscape.experiments.trainings import (
    ablations_card, agreement, beside_paper, draw_columns, draw_pairs, find_models, is_trained,
    load_ablations, load_measurements, open_models, pack_network, read_numbers, result_table, ROWS,
    save_ablations, show_beside, show_orderings, STEP, unpack_network, verdict_counts, what_trained)
from deeplandscape.report.claims import our_evidence
from deeplandscape.core import InputError
from deeplandscape.registry import register_weights
from deeplandscape.metrics.extractors import Extractor
from deeplandscape.model.generator import Generator, GeneratorConfig, Latents, save_generator
from deeplandscape.report.figures import published
from deeplandscape.report.results import save_result
from deeplandscape.training.schedule import ABLATIONS, TrainConfig

SIZES = GeneratorConfig(resolution=16, z_dim=8, w_dim=12, channels=(8, 8, 6), mapping_layers=2)
PAPERS = {name: published(name) for name in ("fig06_ablation", "tab01_balance")}


def model(row, seed=0, noise=0.4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        G = Generator(replace(SIZES, **ABLATIONS[row][0])).eval().requires_grad_(False)
    for name, p in G.named_parameters():
        if "noise" in name: p.fill_(noise)
    return G


def left_is_land(images):
    "A segmentation that calls the left half land, the rest sky."
    shares = torch.zeros_like(images)
    half = images.shape[-1] // 2
    shares[:, 0, :, :half], shares[:, 1, :, half:] = 1, 1
    return shares


@pytest.fixture(scope="module")
def measured():
    models = {(row, seed): model(row, seed) for row in ABLATIONS for seed in (0, 1)}
    return models, measure_models(models, left_is_land, Protocol(scenes=10, dynamic=2, resamples=20))


# Pairs

def test_pairs_share_all_that_is_static():
    for row in ABLATIONS:
        G, base = model(row), Latents.sample(replace(SIZES, **ABLATIONS[row][0]), [5, 6])
        views = generated_views(G, [5, 6], 3, left_is_land)
        assert views.grid.shape == (2, 3, 3, 16, 16)
        torch.testing.assert_close(views.grid[:, 0], G(base).clamp(-1, 1))
        without = [p for name, p in G.named_parameters() if "noise_dyn" in name]
        for p in without: p.zero_()
        still = generated_views(G, [5, 6], 3, left_is_land)
        torch.testing.assert_close(still.alone, still.grid[:, 0])  # S_dyn was all that changed
        same = torch.allclose(still.grid[:, 1], still.grid[:, 0])
        assert same == (G.config.z_dyn_dim == 0)  # rows without z_dyn have nothing else


def test_views_do_not_depend_on_the_batch():
    G = model("crop_sampling")
    whole, part = generated_views(G, range(4), 2, left_is_land), generated_views(G, [3], 2, left_is_land)
    torch.testing.assert_close(whole.grid[3:], part.grid, rtol=1e-3, atol=1e-4)


def test_the_renderer_keeps_its_land():
    views = rendered_views(0, 6, 2, 32)
    found = {name: t[:, 0].sum() / t[:, 1].sum() for name, t in scene_terms(views).items()}
    assert (found["S_dyn alone: " + LAND] < 0.005 < found["S_dyn alone: " + SKY]
            and found[SHARE_S] < 0.01 < found[SHARE] < 1)


# The share of variance

@pytest.mark.parametrize("between, within", [(1.0, 0.0), (0.0, 1.0), (0.3, 0.4)])
def test_the_share_is_the_textbooks(between, within):
    g = torch.Generator().manual_seed(1)
    a, b = between * torch.randn(60, 1, 3, 6, 6,
                                 generator=g), within * torch.randn(60, 4, 3, 6, 6, generator=g)
    x = a + b
    (top, bottom), _ = (t.sum(0) for t in variance_terms(Views(x, x[:, 0], torch.ones(60, 1, 6, 6))))
    msb, msw = 4 * x.mean(1).var(0).sum(), x.var(1).mean(0).sum()
    assert (top / bottom).item() == pytest.approx((msw / (msw + (msb - msw) / 4)).item(), abs=1e-5)
    assert (top / bottom).item() == pytest.approx(within**2 / (between**2 + within**2), abs=0.02)


def test_the_share_counts_the_static_region_alone():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(40, 1, 3, 4, 8, generator=g).repeat(1, 3, 1, 1, 1)
    x[..., 4:] = torch.randn(40, 3, 3, 4, 4, generator=g)  # the right half is redrawn, the left stays
    mask = torch.zeros(40, 1, 4, 8)
    mask[..., :4] = 1
    share = lambda m: (lambda t: t[:, 0].sum()
                       / t[:, 1].sum())(variance_terms(Views(x, x[:, 1], m))[0]).item()
    assert (share(mask) == pytest.approx(0, abs=1e-9) and share(1 - mask) == pytest.approx(1, abs=0.05)
            and 0.4 < share(torch.ones_like(mask)) < 0.6)


def test_tall_pictures_are_taken_in_bands():
    x = torch.rand(5, 2, 3, 20, 6, generator=torch.Generator().manual_seed(0))
    mask = (torch.rand(5, 1, 20, 6, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    turned = lambda v: v.transpose(-1, -2)
    for a, b in zip(variance_terms(Views(x, x[:, 1], mask)),
                    variance_terms(Views(turned(x), turned(x[:, 1]), turned(mask)))):
        torch.testing.assert_close(a, b)


def test_the_part_of_S_dyn_is_half_its_squared_difference():
    g = torch.Generator().manual_seed(3)
    a, cloud, other, light = (s * torch.randn(400, 1, 3, 4, 4, generator=g) for s in (0.4, 0.2, 0.2, 0.3))
    light2, cloud2 = 0.3 * torch.randn(400, 1, 3, 4, 4,
                                       generator=g), 0.2 * torch.randn(400, 1, 3, 4, 4, generator=g)
    views = Views(torch.cat([a + cloud + light, a + cloud2 + light2], 1), (a + other + light)[:, 0],
                  torch.ones(400, 1, 4, 4))
    whole, alone = (t[:, 0].sum() / t[:, 1].sum() for t in variance_terms(views))
    assert (whole.item() == pytest.approx(0.13 / 0.29, abs=0.02)
            and alone.item() == pytest.approx(0.04 / 0.29, abs=0.01))


def test_a_scene_of_masks_that_never_meet_has_no_share():
    x, mask = torch.randn(2, 2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    mask[0, :, :2], mask[1, :, 2:] = 1, 1
    pairs = variance_terms(Views(x, x[:, 0], mask))[0]
    assert (pairs == 0).all() and np.isnan(replicates(pairs.numpy(), 3)).all()
    with pytest.raises(InputError, match="at least 2 scenes with 2"):
        variance_terms(Views(x[:, :1], x[:, 0], mask))


# Replicates and intervals

def test_replicates_are_ratios_of_sums():
    terms = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    found = replicates(terms, 50, 3)
    picks = np.random.default_rng(3).integers(0, 3, (50, 3))
    assert found[0] == 1.5
    for value, pick in zip(found[1:], picks):
        below = terms[pick, 1].sum()
        assert np.isnan(value) if below == 0 else value == pytest.approx(terms[pick, 0].sum() / below)


def test_pairing_cancels_what_two_rows_share():
    rng = np.random.default_rng(0)
    common = rng.normal(size=100)
    a, b = (replicates(common + 0.01 * rng.normal(size=100), 200) for _ in range(2))
    assert (a - b)[1:].std() < 0.05 * a[1:].std()


def test_frechet_replicates_do_not_creep_up():
    g = torch.Generator().manual_seed(0)
    found = frechet_replicates(torch.randn(60, 12, generator=g), torch.randn(60, 12, generator=g), 20)
    assert found[1:].mean() == pytest.approx(found[0])


def trained(values):
    "Measurements of trainings whose SSIM is given: row -> values."
    return {(row, seed): {"SSIM": np.full(11, v)}
            for row, own in values.items() for seed, v in enumerate(own)}


@pytest.mark.parametrize("n, m", [(2, 2), (3, 3), (3, 5)])
def test_intervals_over_trainings_are_students_and_welchs(n, m):
    rng = np.random.default_rng(n + m)
    a, b = rng.normal(0.7, 0.02, n), rng.normal(0.6, 0.05, m)
    found = trained({"original": a, "crop_sampling": b})
    own = difference(found, "crop_sampling", "original", "SSIM")
    theirs = ttest_ind(b, a, equal_var=False)
    assert (own["low"], own["high"]) == pytest.approx(tuple(theirs.confidence_interval()))
    assert own["p"] == pytest.approx(theirs.pvalue) and own["trainings"] == min(n, m)
    line = numbers_table(found).query("method == 'decay'").iloc[0]
    assert (line.low, line.high) == pytest.approx(tuple(ttest_1samp(b, 0).confidence_interval()))
    assert line.over == own["over"] == "trainings"


@pytest.mark.parametrize("trainings, scatter", [(2, 1.0), (3, 1.0), (5, 0.5)])
def test_intervals_cover(trainings, scatter):
    rng, inside = np.random.default_rng(trainings), 0
    for _ in range(400):
        rows = trained(dict(zip(("original", "separate_S"), scatter * rng.normal(size=(2, trainings)))))
        found = difference(rows, "original", "separate_S", "SSIM")
        inside += found["low"] <= 0 <= found["high"]
    assert inside / 400 > 0.93


def test_all_together_less_is_held_than_each_by_itself():
    "Holm over the orderings of Figure 6 and Table 1; what was never refuted stays undecided."
    found = as_the_paper(scatter=0.003)
    judged = with_family(pd.concat([ablation_orderings(found, paper) for paper in PAPERS.values()]))
    counts = verdict_counts(judged)
    assert len(judged) == 24 and (judged.corrected >= judged.p).all()
    assert 0 < counts["orderings held (Holm)"] < counts["orderings held"]
    assert (judged.family.eq("undecided") | judged.family.eq(judged.verdict)).all()


def test_values_of_every_training(measured):
    items = training_items(measured[1])
    own = items.query("method == 'freq = 0.3' and metric == 'SSIM'").set_index("item").value
    assert dict(own) == {f"freq_0.3/{seed}": measured[1]["freq_0.3", seed]["SSIM"][0] for seed in (0, 1)}


def test_an_interval_needs_replicates():
    assert (np.isnan(centred_interval([1.0])[1:]).all()
            and np.isnan(centred_interval([1.0, np.nan, 2.0])[1:]).all())
    # about the number, not about their mean
    assert centred_interval([5.0, *np.arange(101.0)]) == (5, pytest.approx(-42.5), pytest.approx(52.5))


# Verdicts

@pytest.mark.parametrize("low, high, paper, says", [
    (1, 2, 0.1, "held"), (1, 2, -0.1, "not held"), (-2, -1, -0.1, "held"), (-2, -1, 0.1, "not held"),
    (-1, 1, 0.1, "undecided"), (0, 1, 0.1, "undecided"),
    (np.nan, np.nan, 1, "undecided")])
def test_verdicts(low, high, paper, says): assert verdict(low, high, paper) == says


def test_the_papers_comparisons():
    pairs = comparisons(PAPERS["fig06_ablation"])
    assert (pairs[0] == ("+ frame discriminator", "Original StyleGAN")
            and pairs[-1] == ("+ crop sampling", "Original StyleGAN") and len(pairs) == 5)
    assert comparisons(PAPERS["tab01_balance"]) == [(f"freq = {f}", "decay") for f in (0.1, 0.3, 0.5)]
    assert ({ROW_OF[m] for pair in pairs + comparisons(PAPERS["tab01_balance"]) for m in pair}
            == set(ABLATIONS))


def as_the_paper(scale=1.0, scatter=1e-4, trainings=3):
    "Measurements that repeat the paper's numbers, or (scale -1) turn all their differences around."
    rng, made = np.random.default_rng(0), {}
    for paper in PAPERS.values():
        for line in paper[(paper.condition == "") & paper.metric.isin(["FID", "SSIM", "LPIPS"])].itertuples():
            for seed in range(trainings):
                values = scale * line.value + abs(line.value) * scatter * rng.normal(size=101)
                made.setdefault((ROW_OF[line.method], seed), {})[line.metric] = values
    return made


def test_the_papers_own_numbers_hold_and_turned_around_they_do_not():
    for paper in PAPERS.values():
        assert set(ablation_orderings(as_the_paper(), paper).verdict) == {"held"}
        assert set(ablation_orderings(as_the_paper(-1), paper).verdict) == {"not held"}
        assert set(ablation_orderings(as_the_paper(scatter=1), paper).verdict) == {"undecided"}
    judged = ablation_orderings(as_the_paper(), PAPERS["tab01_balance"])
    np.testing.assert_allclose(judged.value, judged.paper, rtol=0.05, atol=0.02)
    assert (judged.measured_as == judged.metric).all()  # no stand-in where the real ones measured


def test_equal_numbers_of_the_paper_make_no_ordering():
    paper = PAPERS["tab01_balance"].assign(value=1.0)
    assert set(ablation_orderings(as_the_paper(), paper).verdict) == {"no ordering"}


def test_one_training_decides_nothing_and_says_so():
    judged = ablation_orderings(as_the_paper(trainings=1), PAPERS["fig06_ablation"])
    assert set(judged.over) == {"one training"} and set(judged.verdict) == {"undecided"}
    uneven = as_the_paper()
    uneven = {key: v for key, v in uneven.items() if key[0] != "original" or key[1] == 0}
    found = difference(uneven, "crop_sampling", "original", "SSIM")
    assert found["over"] == "one training" and found["trainings"] == 1 and np.isnan(found["low"])


# Measuring and files

def test_all_rows_are_measured_alike(measured):
    models, found = measured
    assert set(found) == {*models, (TRUTH, 0)} and len({frozenset(f) for f in found.values()}) == 1
    assert all(np.isfinite(v).all() and len(v) == 21 for f in found.values() for v in f.values())
    assert not {"FID", "LPIPS"} & set(found["original", 0])
    # in pairs of these, S_dyn is all that changes
    for row in ("original", "frame_discriminator", "separate_S"):
        np.testing.assert_allclose(found[row, 0][SKY], found[row, 0]["S_dyn alone: " + SKY])


def test_rows_that_cannot_be_compared_are_undecided(measured):
    _, found = measured
    judged = ablation_orderings({key: found[key] for key in (("original", 0), (TRUTH, 0))},
                                PAPERS["fig06_ablation"])
    assert (len(judged) == 15 and set(judged.verdict) == {"undecided"}
            and "not measured" in show_orderings(judged).to_html())
    assert sum(verdict_counts(judged).values()) == 15


def test_without_maps_nothing_changes():
    found = measure_models({("separate_S", 0): model("separate_S", noise=0.0)}, left_is_land,
                           Protocol(scenes=4, dynamic=2, resamples=2))["separate_S", 0]
    assert (found["SSIM"] == pytest.approx(1, abs=1e-5)
            and all(np.abs(found[m]).max() < 1e-6 for m in (SKY, LAND, SHARE, SHARE_S, EMBEDDED_PAIR)))


def test_published_networks_have_the_published_names(monkeypatch):
    project = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    standard = Extractor("inception", lambda x: x.mean((2, 3)).double() @ project, "none", "-1..1",
                         standard=True)
    monkeypatch.setattr(ablations, "extractor", lambda name, device: standard)
    monkeypatch.setattr(ablations, "lpips_distance",
                        lambda x, y, mask, span, device: (x - y).abs().mean((1, 2, 3)))
    found = measure_models({("original", 0): model("original")}, left_is_land,
                           Protocol(scenes=8, dynamic=2, resamples=3, networks=["inception", "lpips"]))
    assert ({"FID", "LPIPS"} <= set(found["original", 0])
            and "Frechet distance (embedded)" not in found["original", 0])
    assert set(ablation_orderings(found, PAPERS["fig06_ablation"]).measured_as) == {"FID", "SSIM", "LPIPS"}


def test_networks_and_measurements_in_one_file(measured, tmp_path):
    models, found = measured
    numbers = sum(len(v) - 1 + 8 for f in found.values() for v in f.values())
    size = {step: sum(t.nbytes for G in models.values() for t in pack_network(G, step).values())
            for step in (0, STEP)}
    limits = [numbers + n for n in (size[0], size[0] - 1, size[0] // 2, size[0] // 2 - 1)]
    saved = [save_ablations(tmp_path / f"{k}.safetensors", models, found,
                            Protocol(scenes=10, dynamic=2, resamples=20), most)
                            for k, most in enumerate(limits)]
    assert size[0] // 2 < size[STEP] < size[0]
    assert ([(s["step"], s["networks"], s["measured"]) for s in saved]
            == [(0, 16, 17), (STEP, 16, 17), (0, 8, 17), (STEP, 8, 17)])
    assert all(s["bytes"] == (tmp_path / f"{k}.safetensors").stat().st_size for k, s in enumerate(saved))
    with pytest.raises(InputError, match="even with rounded weights"):
        save_ablations(tmp_path / "no.safetensors", models, found, Protocol(), numbers)
    numbers, protocol, facts = load_measurements(tmp_path / "2.safetensors")
    assert protocol.scenes == 10 and set(numbers) == set(found) and set(facts) == set(models)
    read, written = numbers["freq_0.5", 1][SHARE], found["freq_0.5", 1][SHARE]
    np.testing.assert_allclose(read[0], written[0], rtol=1e-6)
    np.testing.assert_allclose(read - read[0], written - written[0],
                               atol=np.abs(written - written[0]).max() / 250)
    again, recorded, facts, known = open_models(str(tmp_path / "2.safetensors"), seeds=[0])
    assert ({seed for _, seed in again} == {0} and what_trained(again, facts).here.sum() == 8
            and len(facts) == 16 and known == protocol)
    close = agreement(measure_models({("original", 0): again["original", 0]}, left_is_land, protocol),
                      recorded)
    assert len(close) == len(found["original", 0]) and close.errors.abs().max() < 1


def test_the_card_says_what_was_trained(measured, tmp_path):
    path = tmp_path / "a.safetensors"
    save_ablations(path, *measured, Protocol(scenes=10, dynamic=2, resamples=20))
    card = ablations_card(path, "rendered scenes")
    assert ("16 trainings" in card and "rendered scenes" in card and "seeds 0, 1" in card
            and "Apache-2.0" in card)
    register_weights("ablations", path, card, folder=tmp_path / "weights")
    assert (tmp_path / "weights" / "ablations.md").read_text().strip() == card.strip()


def kernel(G): return G.blocks[1].conv.weight.view(-1)


def test_rounding_keeps_the_network():
    G = model("freq_0.1")
    for step, most in ((0.0, 2e-3), (STEP, STEP / 2 + 1e-6)):
        H = unpack_network(G.config, pack_network(G, step), step)
        assert (max((a - b).abs().max().item()
                    for a, b in zip(G.state_dict().values(), H.state_dict().values())) < most)
    kernel(G)[0] = 128 * STEP
    with pytest.raises(InputError, match="half precision"): pack_network(G, STEP)


def test_networks_come_back_from_their_mean_as_they_were_rounded(tmp_path):
    "Of several sizes, one with weights at both ends of a byte, so that differences overflow."
    models = {("original", 0): model("original"), ("original", 1): model("original", 1),
              ("crop_sampling", 0): model("crop_sampling")}
    for seed, sign in ((0, 1), (1, -1)):
        kernel(models["original", seed])[:2] = torch.tensor([127.0, -127.0]) * STEP * sign
    saved = save_ablations(tmp_path / "a.safetensors", models, {}, Protocol(),
                           most_bytes=sum(2 * t.numel() for G in models.values()
                                          for t in G.state_dict().values()) - 1)
    assert saved["step"] == STEP and saved["networks"] == 3
    for key, G in load_ablations(tmp_path / "a.safetensors").items():
        alone = unpack_network(G.config, pack_network(models[key], STEP), STEP)
        assert all(torch.equal(a, b) for a, b in zip(alone.state_dict().values(), G.state_dict().values()))


def test_models_of_a_folder(tmp_path):
    for row, seed in (("freq_0.1", 0), ("original", 2), ("original", 0)):
        save_generator(tmp_path / f"{row}_{seed}.safetensors", model(row), dtype=torch.float16)
    (tmp_path / "notes_1.safetensors").write_text("something else")
    assert list(find_models(tmp_path)) == [("original", 0), ("original", 2), ("freq_0.1", 0)]
    save_generator(tmp_path / "separate_z_0.safetensors", model("separate_S"))
    with pytest.raises(InputError, match="differs in z_dyn_dim"): find_models(tmp_path)
    with pytest.raises(InputError, match="holds no file"): find_models(tmp_path / "none")


def test_what_counts_as_trained(tmp_path):
    plan, file = TrainConfig(SIZES, fade_images=((8, 0),), stable_images=((8, 16),),
                             total_batches=None), tmp_path / "original_0.safetensors"
    save = lambda images, config: save_generator(file, model("original"),
                                                 dict(images_seen=images, training=asdict(config)))
    assert not is_trained(file, plan)
    for images, config, done in ((32, plan, True), (31, plan, False), (32, replace(plan, seed=1), False)):
        save(images, config)
        assert is_trained(file, plan) == done


# Results

def test_figure_and_table_read_what_was_written(measured, tmp_path):
    found = measured[1]
    save_result("a2_ablations", "scratch", table=result_table(found, PAPERS, "16 px"), output=tmp_path)
    numbers, judged = read_numbers(tmp_path)
    assert len(judged) == 24 and judged.of.ne("").all() and numbers.of.eq("").all()
    written = pd.read_csv(tmp_path / "a2_ablations.csv", keep_default_na=False)
    # a stand-in has its own name
    assert (not written.duplicated(["method", "condition", "metric"]).any()
            and not {"FID", "LPIPS"} & set(written.metric))
    table = beside_paper(PAPERS["fig06_ablation"], numbers)
    line = table[(table.method == "+ crop sampling") & (table.metric == "LPIPS")].iloc[0]
    mine = numbers_table(found).query(f"method == '+ crop sampling' and metric == '{EMBEDDED_PAIR}'").iloc[0]
    assert ((line.paper, line.measured_as) == (0.062, EMBEDDED_PAIR)
            and (line.ours, line.low) == (pytest.approx(mine.value, rel=1e-4),
                                          pytest.approx(mine.low, rel=1e-4)))
    assert sum(verdict_counts(judged[judged.shown == "tab01_balance"]).values()) == 2 * 9
    html = show_beside(table).to_html() + show_orderings(judged).to_html()
    assert "48.4" in html and "16 px" not in html and "nan" not in html
    marks = [t.get_text() for axes in draw_columns(table, judged[judged.shown == "fig06_ablation"]).axes
             for t in axes.texts]
    assert len(marks) == 12 and set(marks) <= {"✓", "✗", "?"}
    ordering = dict(ours="a2_ablations", method="+ crop sampling against Original StyleGAN", metric="SSIM")
    expected = difference(found, "crop_sampling", "original", "SSIM")
    for column in ("value", "low", "high"):  # what a claim may ask for
        assert vars(our_evidence(ordering, tmp_path))[column] == pytest.approx(expected[column], rel=1e-4)
    assert (our_evidence(dict(ours="a2_ablations", method="decay", metric="SSIM"), tmp_path).value
            == pytest.approx(
                numbers_table(found).query("method == 'decay' and metric == 'SSIM'").value.item(), rel=1e-4))


def test_without_a_result_it_says_so(tmp_path):
    numbers, judged = read_numbers(tmp_path)
    table = beside_paper(PAPERS["tab01_balance"], numbers)
    assert (table.ours.isna().all() and "not measured yet" in show_beside(table).to_html()
            and verdict_counts(judged) == {})
    assert any("not measured yet" in t.get_text() for axes in draw_columns(table, judged).axes
               for t in axes.texts)


def test_a_strip_for_every_row():
    views = {row: generated_views(model(row), range(3), 2, left_is_land)
             for row in ("original", "crop_sampling")}
    figure = draw_pairs(views, 3)
    assert ([axes.get_ylabel() for axes in figure.axes] == ["Original StyleGAN", "+ crop sampling\n= decay"]
            and set(NAMES) == {*ROWS, TRUTH})
