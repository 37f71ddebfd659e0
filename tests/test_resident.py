"""Data on the device: drawn by the rules of `data`, resumable, and the recorded steps of a GPU equal to the
ordinary ones."""
from dataclasses import replace

import pytest
import torch

from deeplandscape.files import load_tensors
from deeplandscape.core import use_threads
from deeplandscape.data.store import Store
from deeplandscape.data.batches import _windows
from deeplandscape.data.prepare import prepare_store
from deeplandscape.model.generator import GeneratorConfig
from deeplandscape.perception.masks import segmenter
from deeplandscape.data.resident import mirror_skies, MirroredSkies, Resident, Scenes, windows
from deeplandscape.training.schedule import TrainConfig
from deeplandscape.training.networks import Networks
from deeplandscape.training.loop import launch, train, train_step

TINY = TrainConfig(GeneratorConfig(resolution=16, z_dim=16, w_dim=16, channels=(8, 8, 8), dynamic_gate=True),
                   batch=((4, 4),), fade_images=((8, 24),), stable_images=((8, 24),),
                   total_batches=None, r1_every=2, shared=(0.3, 0.3), discriminator_channels=(12, 12, 12))


@pytest.fixture(scope="module", autouse=True)
def arithmetic():
    threads = torch.get_num_threads()
    use_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes(): return Scenes(10, (8, 16))


def resident(scenes, device="cpu"): return Resident([(scenes, 1.0)], [(scenes, 1.0)], device)


def test_every_picture_is_one_of_the_store(tmp_path):
    """What is drawn from a store is a window of a frame, possibly mirrored, of one of its clips; pairs are
    two frames of one clip."""
    store = prepare_store(tmp_path, scenes=3, resolutions=(8,), scene_aspect=1.5)
    table = store.tables["scenes"]
    frames = [[torch.from_numpy(table.read(8, i, f).copy()) for f in range(4)] for i in range(3)]
    windows_of = lambda f: {cut.numpy().tobytes() for x in range(f.shape[1] - 7)
                            for cut in (f[:, x:x + 8], f[:, x:x + 8].flip(1))}
    known = [[windows_of(f) for f in clip] for clip in frames]
    pairs = Resident([(store, 1.0)], [(store, 1.0)], "cpu").real(2, 8, list(range(40)))
    for pair in pairs.add(1).mul(127.5).round().byte().permute(0, 1, 3, 4, 2):
        a, b = (image.contiguous().numpy().tobytes() for image in pair)
        assert any(a in clip[i] and b in clip[j] for clip in known for i in range(4)
                   for j in range(4) if i != j)


def test_weights_of_the_sources():
    "A mixture is drawn in its proportions."
    dark, light = Scenes(2, (8,)), Scenes(2, (8,))
    for source, value in (dark, 0), (light, 255): source.levels[8] = torch.full_like(source.levels[8], value)
    images = Resident([(dark, 0.8), (light, 0.2)], [(dark, 1.0)], "cpu").real(1, 8, list(range(4000)))
    assert abs((images.mean(dim=(1, 2, 3, 4)) > 0).float().mean() - 0.2) < 0.03


@pytest.mark.parametrize("height, width, side", [(16, 24, 16), (24, 16, 16), (16, 16, 12), (16, 18, 12)])
def test_crop_windows_stay_inside_and_apart(height, width, side):
    u = torch.rand(10, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got, ((y1, x1), (y2, x2)) = windows(torch.full((500,), height), torch.full((500,), width), 16, u)
    assert (got == side).all() and min(y1.min(), y2.min(), x1.min(), x2.min()) >= 0
    assert max(y1.max(), y2.max()) + side <= height and max(x1.max(), x2.max()) + side <= width
    assert (torch.maximum((y1 - y2).abs(), (x1 - x2).abs()) >= 4).all()
    for b in range(50):       # the rule of `data`, number by number
        assert _windows(height, width, 16, u[:, b].tolist()) == (side, [(y1[b], x1[b]), (y2[b], x2[b])])


def test_resume_equals_uninterrupted(scenes, tmp_path):
    for cut in None, 60:
        out = tmp_path / str(cut)
        if cut: train(TINY, resident(scenes), out, until=cut, checkpoint_every=12, sample_every=0)
        train(TINY, resident(scenes), out, checkpoint_every=12, sample_every=0)
    (a, _), (b, _) = (load_tensors(tmp_path / name / "checkpoint.safetensors") for name in ("None", "60"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_mirrored_skies_leave_the_land_alone(tmp_path):
    "Where a picture shows no sky and no water nothing changes, and two mirror images swap their skies."
    generator = torch.Generator().manual_seed(0)
    image, sky = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1, torch.zeros(1, 1, 32, 32)
    sky[:, :, :12] = 1
    shares = torch.cat([1 - sky, sky, torch.zeros_like(sky)], dim=1)
    other, where = mirror_skies(image, shares)
    assert torch.equal(other[:, :, 16:], image[:, :, 16:])
    assert torch.allclose(other[:, :, :8], image[:, :, :8].flip(-1), atol=1e-6)
    assert (where[:, :, :8] > 0.999).all() and (where[:, :, 12:] == 0).all()


def test_a_store_without_suitable_photographs(tmp_path):
    "Scenes alone hold no photographs to mirror: their frames serve, and what is not suitable is left out."
    store = prepare_store(tmp_path, scenes=6, resolutions=(16,))
    made = MirroredSkies(store, segmenter(), (16,), least=0.05, alike=1.0, visible=0.0)
    assert made.levels[16].shape == (2 * made.count, 16, 16, 3) and 0 < made.count <= 24
    assert MirroredSkies(store, segmenter(), (16,), least=1.1).count == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_steps_equal_ordinary_ones(scenes):
    """The first steps, where rounding has not yet grown, with every kind of update recorded after its third
    call."""
    source, fabric = resident(scenes, "cuda"), launch("cuda")
    plain, graphs = Networks(TINY, fabric), Networks(TINY, fabric, graphs=True)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for step in range(12):
            (a, _), (b, _) = (train_step(nets, source, 4 * step, step) for nets in (plain, graphs))
            assert a.keys() == b.keys() and all(abs(a[k] - b[k]) < 1e-2 + 1e-2 * abs(a[k])
                                                for k in a), (step, a, b)
    assert graphs.run.recorded
