"The fast forms of the layers compute, and differentiate to, what their plain forms do."
import pytest
import torch
import torch.nn.functional as F

from deeplandscape.model.layers import AdaIN, blur, down_kernel, DownConv2d, Normalise, up_kernel, UpConv2d

FORMATS = torch.contiguous_format, torch.channels_last


def plain_norm(x, gamma, beta):
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    return gamma * (x - mean) / (variance + 1e-5).sqrt() + beta


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    shapes = (2, 3, 4, 5), (2, 3, 1, 1), (2, 3, 1, 1)
    return [torch.randn(s, dtype=torch.float64).mul(2).add(1).requires_grad_() for s in shapes]


@pytest.mark.parametrize("order", FORMATS, ids=str)
def test_normalise_first_and_second_gradient(inputs, order):
    x = inputs[0].detach().to(memory_format=order).requires_grad_()
    inputs = [x, *inputs[1:]]
    probe = torch.randn_like(x)
    found = []
    for form in Normalise.apply, plain_norm:
        first = torch.autograd.grad((form(*inputs) * probe).sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        found.append([*first, *second])
    for ours, theirs in zip(*found): torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_normalise_survives_a_large_mean():
    x = torch.randn(2, 3, 16, 16) + 300
    one, zero = torch.ones(2, 3, 1, 1), torch.zeros(2, 3, 1, 1)
    torch.testing.assert_close(Normalise.apply(x, one, zero), plain_norm(x.double(), one, zero).float(),
                               rtol=1e-3, atol=1e-3)


def test_flat_channels_stay_finite():
    x = torch.full((1, 2, 4, 4), 7.0, requires_grad=True)
    adain = AdaIN(2, 4)
    y = adain(x, torch.randn(1, 4))
    y.square().sum().backward()
    assert (torch.isfinite(y).all() and torch.isfinite(x.grad).all()
            and torch.isfinite(adain.affine.weight.grad).all())


def test_statistics_are_wide_under_mixed_precision():
    torch.manual_seed(0)
    x, w, adain = torch.randn(2, 8, 16, 16) + 20, torch.randn(2, 16), AdaIN(8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16): low = adain(x.bfloat16(), w)
    assert low.dtype == torch.bfloat16
    gamma, beta = adain.affine(w)[:, :, None, None].chunk(2, dim=1)
    assert (low.float() - plain_norm(x.bfloat16().float(), gamma, beta)).abs().mean() < 0.02
    low.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in adain.parameters())


@pytest.mark.parametrize("order", FORMATS, ids=str)
def test_folded_kernels(order):
    torch.manual_seed(0)
    weight = torch.randn(4, 6, 3, 3, dtype=torch.float64).to(memory_format=order).requires_grad_()
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64).to(memory_format=order)
    pairs = [(F.conv_transpose2d(x, up_kernel(weight, 0.3), stride=2, padding=1),
              F.conv2d(F.interpolate(x, scale_factor=2), weight * 0.3, padding=1)),
             (F.conv2d(x, down_kernel(weight, 0.3), stride=2, padding=1),
              F.avg_pool2d(F.conv2d(x, weight * 0.3, padding=1), 2))]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)
        probe = torch.randn_like(theirs)
        gradients = [torch.autograd.grad(y, weight, probe)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
def test_kept_kernels_serve_training_after_inference(first):
    """Constants first made without gradients are used where gradients are wanted; new sizes, so that they are
    made here."""
    channels = 21 if first is torch.inference_mode else 22
    up, down, x = UpConv2d(channels, 5).bfloat16(
        ), DownConv2d(channels, 5).bfloat16(), torch.randn(1, channels, 8, 8).bfloat16()
    with first(): blur(x), up(x), down(x)
    x = x.requires_grad_()
    (blur(x).sum() + up(x).sum() + down(x).sum()).backward()
    assert torch.isfinite(x.grad).all()
