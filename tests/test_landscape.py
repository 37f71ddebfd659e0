"""Animating Landscape: exact resume, correspondences against closed forms, loops, books, and the command."""
import math

import pytest
import torch
from animator_contract import check_animator
from typer.testing import CliRunner

from deeplandscape.baselines import animating_landscape as al
from deeplandscape.baselines.flow_predictors import (
    CodeEncoder, encoder_view, Predictor, PredictorConfig)
from deeplandscape.baselines.landscape_colours import style_features, train_appearance
from deeplandscape.baselines.landscape_plan import LANDSCAPE_PLANS, motion_codes
from deeplandscape.baselines.landscape_training import (
    code_errors, edge_aware, motion_pairs, MotionLearner, rendered_clips, train_motion)
from deeplandscape.cli import app
from deeplandscape.core import InputError
from deeplandscape.data.scenes import render_clip
from deeplandscape.data.weather import scene_seeds

MOTION = PredictorConfig(resolution=32, width=6, blocks=1, encoder_width=4, encoder_side=16)
COLOUR = PredictorConfig("appearance", 32, 6, 1, encoder_width=4, encoder_side=16)


@pytest.fixture(scope="module")
def photo(): return render_clip(int(scene_seeds("test", 3)[0]), frames=1, height=64, width=96).images[0]


@pytest.fixture(scope="module")
def clips(): return rendered_clips(5, 32)


def rough(seed=0):
    "A system of random weights whose codes matter."
    torch.manual_seed(seed)
    nets = [net.eval().requires_grad_(False) for net in (
        Predictor(MOTION), CodeEncoder(MOTION), Predictor(COLOUR), CodeEncoder(COLOUR))]
    return al.Landscape(nets[0], nets[1], 3 * torch.randn(7, 8), nets[2], nets[3],
                        [torch.randn(5, 8) for _ in range(3)])


@pytest.mark.parametrize("row", al.AL_ROWS)
def test_the_contract_of_compared_systems(row, photo):
    system = rough()
    video = check_animator(lambda: al.AnimatingLandscape(system, length=9, **al.AL_ROWS[row]), photo)
    assert video.frames.shape == (5, 3, 64, 96)
    assert al.AnimatingLandscape(system, **al.AL_ROWS[row]).name == row


@pytest.mark.parametrize("train, config", [(train_motion, MOTION), (train_appearance, COLOUR)])
def test_a_training_that_was_stopped_goes_on_bit_for_bit(train, config, clips, tmp_path):
    options = dict(learning_rate=1e-3, every=4, held_out=clips[:2])
    whole, history = train(clips, config, 12, tmp_path / "whole.safetensors", **options)
    train(clips, config, 8, tmp_path / "parts.safetensors", **options)
    parts, again = train(clips, config, 12, tmp_path / "parts.safetensors", **options)
    assert history == again and len(history) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values()))
    with pytest.raises(InputError, match="belongs to another run"):
        train(clips[1:], config, 12, tmp_path / "parts.safetensors", **options)


def test_the_last_flows_are_kept_and_told(clips):
    learner, _ = train_motion(clips, MOTION, 5, learning_rate=1e-3)
    visited = learner.flows.abs().amax((1, 2, 3)) > 0
    assert visited.tolist() == [bool(motion_pairs(frames)) for _, frames in clips]
    flow = learner(torch.zeros(1, 3, 32, 32), learner.flows[1:2])
    assert torch.equal(flow, learner.P(torch.zeros(1, 3, 32, 32), learner.E(learner.flows[1:2])))
    assert learner.flows[1:2].shape == encoder_view(flow, MOTION).shape


def test_correspondences_of_affine_maps_compose_as_matrices():
    side = 64
    at = (2 * torch.arange(side) + 1) / side - 1
    y, x = torch.meshgrid(at, at, indexing="ij")
    here = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    first = torch.tensor([[0.95, -0.10, 0.02], [0.08, 0.97, -0.03]])
    second = torch.tensor([[0.98, 0.05, -0.01], [-0.04, 0.94, 0.02]])
    shift = lambda m: ((m @ here) - here[:2]).view(1, 2, side, side)
    last = torch.tensor([[0.0, 0.0, 1.0]])
    both = first @ torch.cat([second, last])
    found = al.compose(shift(first), shift(second))
    inner = (..., slice(4, -4), slice(4, -4))
    assert (found - shift(both))[inner].abs().max() < 1e-5


def test_a_mirrored_margin_keeps_pixels():
    flow = torch.full((1, 2, 32, 32), 2 / 32)                                  # one pixel
    assert torch.allclose(al.with_margin(flow, 8), torch.full((1, 2, 48, 48), 2 / 48))


def test_speed_is_a_multiple_of_the_step(photo):
    small = torch.nn.functional.interpolate(photo[None], size=(32, 32))
    steady = lambda frame, code: torch.full_like(frame[:, :2], 1 / 64)
    *_, slow = al.roll_out(steady, small, None, 11, 1.0)
    *_, fast = al.roll_out(steady, small, None, 6, 2.0)
    assert torch.allclose(slow, fast, atol=1e-6)
    assert math.isclose(slow[0, 0, 20, 20].item(), 10 * 0.2 / 64 * 32 / 48, rel_tol=1e-4)


def test_a_loop_closes_and_a_single_way_does_not(photo):
    loop = al.AnimatingLandscape(rough(), length=21).fit(photo).animate(31, seed=3).frames.float()
    assert torch.equal(loop[:10], loop[10:20]) and torch.equal(loop[0], loop[30])
    steps = (loop[1:] - loop[:-1]).abs().mean((1, 2, 3))
    assert steps[9] < 2 * steps[:9].max()                           # the seam is a step like others
    line = al.AnimatingLandscape(rough(), loop=False).fit(photo).animate(31, seed=3).frames.float()
    assert (line[30] - line[0]).abs().mean() > (line[1] - line[0]).abs().mean()


def test_the_seed_chooses_the_codes(photo):
    system = al.AnimatingLandscape(rough(), style=True, length=9).fit(photo)
    reports = [system.animate(1, seed=seed).report for seed in range(6)]
    assert len({r["motion code"] for r in reports}) == len({r["style"] for r in reports}) == 6


def test_a_file_is_read_as_it_was_written(tmp_path, photo):
    system = rough()
    path = al.save_landscape(tmp_path / "al.safetensors", system, torch.float32)
    videos = [al.AnimatingLandscape(s, style=True, length=9).fit(photo).animate(4).frames
              for s in (system, al.load_landscape(path))]
    assert torch.equal(*videos)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="damaged"): al.load_landscape(path)
    with pytest.raises(InputError, match="no file"): al.load_landscape(tmp_path / "none.safetensors")


def test_the_folder_of_weights_is_looked_into(tmp_path, monkeypatch, photo):
    monkeypatch.setenv("DEEPLANDSCAPE_WEIGHTS", str(tmp_path))
    assert al.AnimatingLandscape(length=9).system.meta["trained"]                 # the shipped one
    al.save_landscape(tmp_path / "animating_landscape.safetensors", rough())
    assert len(al.AnimatingLandscape(length=9).fit(photo).animate(3).frames) == 3


def test_smoothness_stops_at_edges():
    maps, flat, edge = torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    maps[..., 4:], edge[..., 4:] = 1.0, 0.1
    expected = edge_aware(maps, flat) * math.exp(-3 * 0.1 / 0.1)
    assert torch.allclose(edge_aware(maps, edge), expected)
    assert edge_aware(maps, flat).item() == pytest.approx(1 / 7)


def test_a_code_that_is_ignored_is_seen(clips):
    learner = MotionLearner(MOTION, len(clips))
    for conv in (learner.P.conv1, learner.P.conv2, learner.P.conv3):
        conv.weight.data[:, -8:] = 0
    learner.flows.normal_(0, 0.01)
    own, other = code_errors(learner, clips)
    assert own == pytest.approx(other, rel=1e-5)


def test_the_book_of_motions_is_ordered():
    codes = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)
    book = motion_codes(codes, 20)
    assert book.shape == (20, 8)
    axis = torch.linalg.svd(book - book.mean(0))[2][0]
    along = (book - book.mean(0)) @ axis
    assert (along.diff() >= -1e-4).all() or (along.diff() <= 1e-4).all()


def test_the_articles_sizes():
    paper = LANDSCAPE_PLANS["paper"]
    sizes = paper.motion
    assert (sizes.resolution, sizes.width, sizes.blocks, sizes.code) == (256, 128, 5, 8)
    assert (paper.learning_rate, paper.centres, paper.network) == (1e-4, 100, "vgg16")
    assert paper.motion_steps == 5000 * 1000
    with pytest.raises(InputError, match="embedded or vgg16"): style_features("vgg11")


@pytest.mark.parametrize("wrong", [["--epochs", "0"], ["--profile", "none"], ["--clips", "nosuch"],
                                   ["--scenes", "0"], ["--set", "motion.width=x"], ["--start", "nosuch"]])
def test_the_command_refuses_before_it_begins(wrong, tmp_path):
    result = CliRunner().invoke(app, ["train-system", "-o", str(tmp_path / "run"), "--device", "cpu", *wrong])
    assert result.exit_code != 0 and not (tmp_path / "run").exists()
