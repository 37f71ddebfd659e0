"""What every compared system has to keep, in one function that the tests of each call."""
import pytest
import torch

from deeplandscape.baselines.systems import CARD, Animator
from deeplandscape.core import InputError


def check_animator(make, source, frames=5, seeds_differ=True):
    "`make()` gives a new system; source is a photograph (3, H, W) or a clip (T, 3, H, W) in [-1, 1]."
    system = make()
    assert isinstance(system, Animator) and system.fit(source) is system
    video = system.animate(frames, seed=0)
    height, width = source.shape[-2:]
    assert len(video.frames) == frames and video.frames.dtype == torch.uint8
    assert abs(video.frames.shape[-1] / video.frames.shape[-2] - width / height) < 0.05
    assert video.masks.shape == (3, *video.frames.shape[-2:]) and video.fps > 0
    assert torch.equal(make().fit(source).animate(frames, seed=0).frames, video.frames), "not the same bits"
    if seeds_differ: assert not torch.equal(system.animate(frames, seed=1).frames, video.frames)
    assert len(system.animate(1).frames) == 1
    card = system.card()
    assert set(CARD) <= set(card) and card["name"] == system.name
    assert card["origin"] in ("reimplemented", "converted", "control")
    for n_frames, speed in ((0, 1.0), (frames, 0.0), (frames, -1.0), (frames, float("nan"))):
        with pytest.raises(InputError): system.animate(n_frames, speed=speed)
    for wrong in (torch.zeros(1, 32, 32), torch.zeros(3, 8, 8), torch.full((3, 32, 32), torch.nan)):
        with pytest.raises(InputError): make().fit(wrong)
    return video
