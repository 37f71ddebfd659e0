"The table of variants is the paper's, and the algorithms move what it says, nothing else."
from dataclasses import replace

import pandas as pd
import pytest
import torch

from deeplandscape.core import InputError
from deeplandscape.model.generator import Generator, GeneratorConfig
from deeplandscape.photo.inversion import invert, Settings, start, State, VARIANTS
from deeplandscape.video.motion import Homography
from deeplandscape.experiments.variants import motion_in, variant_orderings

QUICK = Settings(iterations=6, tune_iterations=3)


class L2Features:
    "A perceptual loss with a closed form: squared difference of 4x4 averages."
    def features(self, x): return torch.nn.functional.avg_pool2d(x, 4)
    def distance(self, a, b): return (a - b).square().flatten(1).mean(1)


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    G = Generator(GeneratorConfig(resolution=32, z_dim=16, w_dim=16, channels=(12, 12, 12, 8)))
    for block in G.blocks:                                   # as after training: maps matter
        for noise in (*block.noise_st, *block.noise_dyn): torch.nn.init.normal_(noise.weight)
    photo = torch.rand(2, 3, 32, 32) * 2 - 1
    mask = torch.zeros(2, 1, 32, 32); mask[..., 16:, :] = 1
    E = lambda x: x.mean((1, 2, 3))[:, None, None].expand(-1, 8, 16) * torch.ones(2, 8, 16)[:len(x)]
    return G, E, photo, mask


def test_table_is_the_papers():
    "Figure 3 of the paper, typed in once more from its columns."
    names = "I2S MO E EO EOI EOIF EOIFS".split()
    rows = dict(init_W="mean mean E E E E E".split(), init_S="random zero random zero zero zero zero".split(),
                optimise_S=[0, 1, 0, 1, 1, 1, 1], optimise_W=[1, 1, 0, 1, 1, 1, 1],
                tie_W=[0, 0, 0, 0, 1, 1, 1],
                fine_tune=[0, 0, 0, 0, 0, 1, 1], segmentation=[0, 0, 0, 0, 0, 0, 1])
    assert list(VARIANTS) == names
    for field, values in rows.items():
        assert ([getattr(VARIANTS[n], field) for n in names]
                == [v if isinstance(v, str) else bool(v) for v in values]), field


@pytest.mark.parametrize("name", VARIANTS)
def test_moves_what_the_table_says(setting, name):
    G, E, photo, mask = setting
    v = VARIANTS[name]
    before = start(G, photo, v, E, seed=3)
    weights = [p.clone() for p in G.parameters()]
    found = invert(G, photo, name, E, mask, L2Features(), QUICK, seed=3)
    moved = lambda a, b: any(not torch.equal(x, y) for x, y in zip(a, b))
    assert moved([before.W], [found.W]) == v.optimise_W
    assert moved(before.S_st, found.S_st) == v.optimise_S and moved(before.S_dyn, found.S_dyn) == v.optimise_S
    assert all(torch.equal(a, b) for a, b in zip(weights,
                                                 G.parameters())), "the given generator must stay as it was"
    assert moved(weights, list(found.generator.parameters())) == v.fine_tune
    assert all(p.grad is None for p in G.parameters())
    mapping = zip(G.mapping.parameters(), found.generator.mapping.parameters())
    assert all(torch.equal(a, b) for a, b in mapping), "fine-tuning leaves M alone"


def test_EOI_without_penalty_is_EO(setting):
    G, E, photo, _ = setting
    a, b = (invert(G, photo, name, E, None, L2Features(), replace(QUICK, tie_W=0.0))
            for name in ("EOI", "EO"))
    assert (torch.equal(a.W, b.W) and all(torch.equal(s, t)
                                          for s, t in zip(a.S_st + a.S_dyn, b.S_st + b.S_dyn)))


def test_penalty_keeps_W_near_the_proposal(setting):
    G, E, photo, _ = setting
    away = [(invert(G, photo, "EOI", E, None, L2Features(), Settings(iterations=60, tie_W=t)).W
             - E(photo)).norm() for t in (0.0, 100.0)]
    assert away[1] < 0.7 * away[0]


def test_masks_route(setting):
    "Far inside the moving half nothing pulls at S_st, and the other way round."
    G, E, photo, mask = setting
    found = invert(G, photo, "EOIFS", E, mask, L2Features(), QUICK)
    moving, static = slice(0, 8), slice(24, 32)
    assert found.S_st[-1][..., moving, :].abs().max() == 0 and found.S_st[-1][..., static, :].abs().max() > 0
    assert (found.S_dyn[-1][..., static, :].abs().max() == 0
            and found.S_dyn[-1][..., moving, :].abs().max() > 0)


def test_photo_without_moving_region_does_not_stall(setting):
    "The moving region's loss is zero from the start; the static region must still be fitted."
    G, E, photo, mask = setting
    found = invert(G, photo, "EOIFS", E, torch.ones_like(mask), L2Features(),
                   Settings(iterations=300, tune_iterations=0))
    losses = [h["loss"].mean().item() for h in found.history if h["phase"] == "latents"]
    assert losses[-1] < 0.9 * losses[2] and len(losses) == 300


def test_batch_gives_what_single_photos_give(setting):
    G, E, photo, mask = setting
    both = invert(G, photo, "EOI", E, None, L2Features(), QUICK)
    second = invert(G, photo[1:], "EOI", E, None, L2Features(), QUICK)
    torch.testing.assert_close(both.W[1:], second.W, rtol=1e-3, atol=1e-4)


def test_bad_input(setting):
    G, E, photo, _ = setting
    with pytest.raises(InputError, match="needs a mask"):
        invert(G, photo, "EOIFS", E, None, L2Features(), QUICK)
    with pytest.raises(InputError, match="choose one of"):
        invert(G, photo, "EOIFF", E, None, L2Features(), QUICK)
    with pytest.raises(InputError, match="shape"):
        invert(G, photo[..., :16], "MO", None, None, L2Features(), QUICK)


def case_results(differences, metric="SSIM"):
    "Rows of two variants whose paired differences are these."
    return {"MO": [{metric: 0.5 + 0.1 * k + d} for k, d in enumerate(differences)],
            "E": [{metric: 0.5 + 0.1 * k} for k, _ in enumerate(differences)]}


@pytest.mark.parametrize("differences, verdict", [
    ([0.02, 0.03, 0.025, 0.02], "held"), ([-0.02, -0.03, -0.025, -0.02], "not held"),
    ([0.02, -0.03, 0.01, 0.0], "undecided"),
    ([0.02, 0.03], "undecided"), ([0.02], "undecided"), ([float("nan"), 0.02, 0.03, 0.025, 0.02], "held"),
    ([float("nan")], "undecided")])
def test_orderings_follow_from_paired_differences(differences, verdict):
    "Small against the spread of the photographs, yet sure; two photographs decide nothing."
    paper = pd.DataFrame([("MO", "SSIM", 0.95), ("E", "SSIM", 0.54)], columns=["method", "metric", "value"])
    (row,) = variant_orderings(case_results(differences), paper).itertuples()
    assert (row.more, row.less, row.verdict) == ("MO", "E", verdict)


def test_equal_numbers_of_the_paper_order_nothing():
    paper = pd.DataFrame([("MO", "Flow x 10^-3", 1.3), ("E", "Flow x 10^-3", 1.3)],
                         columns=["method", "metric", "value"])
    assert len(variant_orderings(case_results([1.0, 1.0, 1.0], "Flow x 10^-3 (DIS)"), paper)) == 0


@pytest.mark.parametrize("hour", ["3h", "9h", "2h", "10h"])
def test_motion_is_measured_where_it_is_asked_for(hour):
    """A picture pushed by the homography moves as asked, one pushed the other way against it; a still one not
    at all."""
    g = torch.Generator().manual_seed(0)
    picture = torch.nn.functional.interpolate(torch.randn(1, 3, 12, 12, generator=g), size=(64, 64),
                                              mode="bicubic").clamp(-1, 1)
    H, sky, times = Homography.clock(hour, 1.0), torch.ones(1, 1, 64, 64), torch.tensor([0.0, 5.0, 10.0])
    push = lambda sign: torch.cat([H.warp(picture.transpose(0, 1), sign * t).transpose(0, 1) for t in times])
    assert 0.7 < motion_in(push(1), sky, H, 5)[1] < 1.3 and -1.3 < motion_in(push(-1), sky, H, 5)[1] < -0.7
    assert motion_in(picture.expand(3, -1, -1, -1), sky, H, 5) == pytest.approx((0, 0), abs=0.05)
