"""A photograph in, a video out, with a tiny untrained model: sizes, regions, what must not move, and
mistakes."""
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from deeplandscape.photo.animation import animate, size_quality, smoothness
from deeplandscape.photo.regions import horizon_of, objects_in, regions, without_islands
from deeplandscape.cli import app
from deeplandscape.core import InputError
from deeplandscape.media import read_video, save_image, to_uint8
from deeplandscape.model.generator import Generator, GeneratorConfig
from deeplandscape.model.approximator import Approximator, LightingConfig
from deeplandscape.video.composition import Composer
from deeplandscape.video.motion import CLOCK, Homography
from deeplandscape.video.rendering import animate_maps, Film
from small_models import write_weights

TINY = GeneratorConfig(resolution=16, z_dim=12, w_dim=16, channels=(12, 12, 8))


class Pixels:
    "A perceptual loss that compares pixels."
    def features(self, x): return x
    def distance(self, a, b): return (a - b).abs().flatten(1).mean(1)


def bands(sky, water):
    "A segmentation that finds sky above and water below the given heights (shares of the picture)."
    def segment(images):
        h = images.shape[-2]
        y = ((torch.arange(h) + 0.5) / h).view(1, 1, h, 1).expand(len(images), 1, -1, images.shape[-1])
        is_sky, is_water = (y < sky).float(), (y > water).float()
        return torch.cat([1 - is_sky - is_water, is_sky, is_water], 1)
    return segment


def models(sky=0.4, water=0.7):
    torch.manual_seed(0)
    G = Generator(TINY)
    with torch.no_grad():
        for name, p in G.named_parameters():
            if "noise" in name: p.fill_(0.2)
    encoder = lambda x: torch.zeros(len(x), 2 * TINY.levels, TINY.w_dim)
    A = Approximator(LightingConfig(TINY.w_dim, depth=1, change=True))
    torch.nn.init.normal_(A.out.weight, std=0.5)
    return {"G": G, "E": encoder, "A": A, "segment": bands(sky, water), "perceptual": Pixels()}


def picture(height=60, width=90):
    g = torch.Generator().manual_seed(3)
    x = torch.nn.functional.interpolate(torch.randn(1, 3, 6, 8,
                                                    generator=g), size=(height, width), mode="bicubic")[0]
    return (x / x.abs().amax()).clamp(-1, 1)


def quick(photo, **changes):
    options = dict(direction="3h", seconds=0.2, fps=20, speed=4,
                   iterations=3, size=64, models=models()) | changes
    return animate(photo, **options)


@pytest.mark.parametrize("height, width, expected",
                         [(60, 90, (42, 64)), (90, 60, (64, 42)), (61, 47, (60, 48)),
                          (200, 40, (64, 16)), (33, 330, (16, 64))])
def test_aspect_and_even_sides(height, width, expected):
    video = quick(picture(height, width))
    assert video.frames.shape == (4, 3, *expected) and video.frames.dtype == torch.uint8
    assert video.masks.shape == (3, *expected) and video.model_frames.shape == (4, 3, 16, 16)


def test_first_frame_is_the_photo_and_land_stands_still():
    photo = picture()
    video = quick(photo, size=512, seconds=1)
    assert torch.equal(video.frames[0], to_uint8(photo))                                       # to the bit
    change = (video.frames[-1].float() - video.frames[0].float()).abs().mean(0)
    land, moving = video.masks[0] > 0.99, video.masks[0] < 0.01
    assert change[moving].mean() > 2 and change[land].mean() < 0.5 * change[moving].mean()
    assert video.report["SSIM photo and first frame"] > 0.99
    assert video.report["SSIM static, first and last"] > 0.9


def test_content_moves_where_it_is_told():
    "Sky texture is carried to the right by 3h and to the left by 9h."
    g = torch.Generator().manual_seed(1)
    photo = torch.nn.functional.interpolate(torch.randn(1, 3, 32, 48, generator=g),
                                            size=(64, 96), mode="bicubic")[0].clamp(-2, 2) / 8
    m, offsets = models(sky=1.1, water=2), {}
    for hour in ("3h", "9h"):
        frames = animate(photo, hour, seconds=0.5, fps=10, speed=2, iterations=1,
                         size=96, models=m).frames.float().mean(1)
        a, b = (f[:16] - f[:16].mean() for f in (frames[0], frames[-1]))
        match = {k: (a[:, 16:-16] * b[:, 16 + k:80 + k]).mean() for k in range(-12, 13)}
        offsets[hour] = max(match, key=match.get)
    assert offsets["3h"] > 2 and offsets["9h"] < -2


def test_mp4_and_gif(tmp_path):
    video = quick(picture(61, 47))
    for kind in ("mp4", "gif"):
        frames, fps = read_video(video.save(tmp_path / f"x.{kind}"))
        assert frames.shape == video.frames.shape and abs(fps - 20) < 0.5
    assert "SSIM" in str(video) and "3h" in str(video)


def test_same_seed_same_bits_and_seed_chooses_the_direction():
    a, b = (quick(picture(), direction=None, seed=4) for _ in range(2))
    assert torch.equal(a.frames, b.frames) and a.report["direction, speed"] == b.report["direction, speed"]
    assert len({quick(picture(), direction=None, seed=s, iterations=1).report["direction, speed"]
                for s in range(5)}) > 1


def test_all_sky_all_water_and_neither():
    for sky, water, horizon in ((1.1, 2, 1.0), (-1, 0.5, 0.5), (-1, -1, 0.0)):
        video = quick(picture(), models=models(sky, water))
        assert abs(video.report["horizon (0 top, 1 bottom)"] - horizon) < 0.05
        assert not torch.equal(video.frames[0], video.frames[-1])
    video = quick(picture(), models=models(-1, 2))
    assert "nothing moves" in video.report["note"] and len(video.frames) == 4
    assert (video.masks[0] > 0.99).all() and "horizon (0 top, 1 bottom)" not in video.report


def test_light_alone_changes_brightness_and_nothing_else():
    photo = picture(64, 64)
    video = quick(photo, models=models(-1, 2), seconds=0.5, light="deep night")
    assert (video.frames[0].float() / 127.5 - 1 - photo).abs().max() < 0.02  # begins with the photo
    ratio = (video.frames[-1].float() + 1) / (video.frames[0].float() + 1)
    assert (ratio - 1).abs().mean() > 1e-3                                                     # other light
    rough = ratio[:, 1:-1, 1:-1] - torch.nn.functional.avg_pool2d(ratio[None], 3, 1)[0]
    bright = video.frames[0, :, 1:-1, 1:-1] > 100
    assert rough[bright].abs().mean() < 0.3 * (ratio - 1).abs().mean() + 0.01  # smooth over the picture
    dark = quick(photo, models=models(-1, 2), light="none")
    assert torch.equal(dark.frames[0], dark.frames[-1])


def test_light_leaves_the_photo_gently_and_in_a_loop_comes_back():
    for light in "deep night", "light_sunset,deep_night", "tour", "random":
        for loop in False, True:
            video = quick(picture(64, 64), models=models(-1, 2), seconds=2, light=light, loop=loop)
            steps = torch.cat([video.frames,
                               video.frames[:1]]).float().diff(dim=0).square().mean((1, 2, 3)).sqrt()
            # no jump
            assert steps[0] < 0.5 * steps[:-1].max() and (steps[-1] < 0.5 * steps[:-1].max()) == loop
            assert video.report["light"] == f"{light}, 1"
            assert ("last to first, of the median step" in video.report) == loop
            far = (video.frames.float() - video.frames[:1].float()).abs().mean((1, 2, 3))
            assert far[len(far) // 2] > 0.5 and (far[-1] < 0.4 * far.max()) == loop


def test_half_the_amount_is_less_light():
    far = [float((v.frames[-1].float() - v.frames[0].float()).abs().mean())
           for v in (quick(picture(64, 64), models=models(-1, 2), light="deep night", amount=a)
                     for a in (0.0, 0.3, 1.0))]
    assert far[0] == 0 < far[1] < far[2]


def test_light_of_another_generator_is_refused():
    others = models(-1, 2) | {"A": Approximator(LightingConfig(w_dim=20, depth=1))}
    with pytest.raises(InputError, match="20 and 3 against 16 and 3"):
        quick(picture(), models=others, light="tour")
    video = quick(picture(), models=others)  # nothing can move, no light by default
    assert "note" in video.report and "20 and 3" in video.report["light"]
    assert torch.equal(video.frames[0], video.frames[-1])


def test_small_and_doubtful_pieces_stand_still():
    p = bands(0.4, 2)(torch.zeros(1, 3, 100, 100))
    p[:, :, 80:83, 50:53] = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1)  # a speck of water
    p[:, :, 60:75, 10:40] = torch.tensor([0.35, 0, 0.65]).view(1, 3, 1, 1)                     # perhaps water
    q = without_islands(p)
    assert q[:, 0, 45:].min() > 0.99 and torch.equal(q[:, :, :38], p[:, :, :38])


def test_doubtful_masks_are_said_in_the_report_unless_a_mask_is_given():
    shares = torch.tensor([0.3, 0.36, 0.34]).view(1, 3, 1, 1)
    unsure = lambda images: shares.expand(len(images), 3, *images.shape[-2:])
    found = quick(picture(), models=models() | {"segment": unsure})
    assert "check with --mask-out" in found.report["doubts"]
    told = quick(picture(), models=models() | {"segment": unsure}, mask=bands(0.4, 0.7)(picture()[None])[0])
    assert "check with --mask-out" not in told.report.get("doubts", "")

def test_things_before_the_sky_are_found_and_clouds_are_not():
    g = torch.Generator().manual_seed(2)
    clouds = torch.nn.functional.interpolate(torch.randn(1, 1, 8, 10, generator=g),
                                             size=(128, 160), mode="bicubic").mul(0.2).expand(1, 3, -1, -1)
    sky = torch.ones(1, 1, 128, 160)
    assert objects_in(clouds, sky).mean() == 0
    bird = clouds.clone()
    bird[..., 60:66, 70:90] = -0.9
    found = objects_in(bird, sky)
    assert found[..., 61:65, 72:88].min() == 1 and found.mean() < 0.05


def test_mask_by_hand(tmp_path):
    mask = torch.zeros(1, 30, 30)
    mask[:, :, 15:] = 1
    Image.fromarray((mask[0].numpy() * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    for given in (mask, tmp_path / "mask.png"):
        video = quick(picture(), mask=given, models=models(0.5, 0.5))
        change = (video.frames[-1].float() - video.frames[0].float()).abs().mean((0, 1))
        assert change[40:].mean() > 4 * change[:24].mean()


@pytest.mark.parametrize("hour", ["3h", "12h", "6h"])
def test_loop_closes_and_without_it_does_not(hour):
    "From the last frame to the first it is no farther than between neighbours; without --loop it is."
    seam = "last to first, of the median step"
    closed, open_ = (quick(picture(), direction=hour, seconds=2, loop=loop, models=models(0.6, 0.8))
                     for loop in (True, False))
    assert closed.report[seam] < 1.5 and seam not in open_.report
    assert smoothness(open_.frames, loop=True)[seam] > 2 * closed.report[seam]


def test_maps_outside_the_mask_never_change():
    S = [torch.randn(1, 1, s, s) for s in (4, 8, 16)]
    moving = torch.zeros(1, 1, 16, 16)
    moving[..., :8, :] = 1
    maps = animate_maps(S, moving, Homography.clock("12h"), torch.tensor([0.0, 1.0, 50.0]))
    for m, s in zip(maps, S):
        half = s.shape[-1] // 2
        assert torch.equal(m[0], s[0]) and torch.equal(m[:, :, half:], s[:, :, half:].expand(3, -1, -1, -1))
        assert not torch.equal(m[2, :, :half], s[0, :, :half])
        assert abs(m[2, :, :half].std() / s[:, :, :half].std() - 1) < 0.6


def test_composition_keeps_the_photo_when_nothing_moves():
    photo, masks = picture()[None].clamp(-0.9, 0.9), bands(0.4, 0.7)(picture()[None])
    compose = Composer(photo, masks, Homography(horizon=0.5))
    for t in 0.0, 5.0, 90.0: torch.testing.assert_close(compose(t), photo, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("level, disc", [(-0.5, 0.95), (0.6, -0.9)])
@pytest.mark.parametrize("hour", ["3h", "9h", "12h"])
def test_what_differs_from_the_sky_leaves_no_negative_of_itself(level, disc, hour):
    "A moon, or a balloon, that touches the border of the mask moves without a block of the opposite colour."
    y, x = torch.meshgrid(torch.arange(240.0), torch.arange(320.0), indexing="ij")
    sky = level + 0.03 * torch.sin(x / 9) * torch.sin(y / 7)
    photo = torch.where((x - 150).square() + (y - 138).square() < 24 ** 2, disc, sky)
    ridge = 150 + 20 * torch.sin(x / 40)
    photo = torch.where(y > ridge, 0.1, photo).expand(1, 3, -1, -1)
    share = ((ridge - 4 - y) / 6 + 0.5).clamp(0, 1)
    # the segmenter is unsure at the edge of the disc, as it was at the moon of a scene
    share = torch.where((x - 160).abs() + (y - 116).abs() < 9, 0.8, share)[None, None]
    masks = torch.cat([1 - share, share, 0 * share], 1)
    compose = Composer(photo, masks, Homography.clock(hour, 0.65))
    above = (y < ridge - 12) & (y > 12)
    for t in 20.0, 60.0, 110.0:
        frame = compose(t)[0].mean(0)[above]
        beyond = level - frame if disc > level else frame - level
        assert beyond.max() < 0.38, f"{float(beyond.max()):.2f} at {t:g}"


def test_frames_are_made_one_at_a_time(tmp_path, monkeypatch):
    "Saving holds no more than a batch of frames; how they are asked for does not change them."
    alive, most, made = [0], [0], Film.finished

    def counted(self, numbers):
        frames = made(self, numbers)
        alive[0] = len(frames); most[0] = max(most[0], alive[0])
        return frames
    monkeypatch.setattr(Film, "finished", counted)
    video = quick(picture(300, 400), size=400, seconds=2)
    saved, _ = read_video(video.save(tmp_path / "x.mp4"))
    assert len(saved) == 40 and most[0] <= 8 and "frames" not in vars(video)
    one = torch.stack([video.film[i] for i in (0, 7, 8, 39)])
    assert (video.frames[[0, 7, 8, 39]].int() - one.int()).abs().max() <= 1


def test_a_long_video_is_not_held_and_not_refused():
    "Ten minutes at a large size are begun in no time; all frames at once are refused in a sentence."
    photo = torch.nn.functional.interpolate(picture(60, 90)[None],
                                            size=(700, 1050), mode="bicubic")[0].clamp(-1, 1)
    video = quick(photo, size=1050, seconds=600, fps=30, iterations=1)
    assert len(video.film) == 18000 and video.film[17999].shape == (3, 700, 1050)
    with pytest.raises(InputError, match="40 GB; save the video"): video.frames


def test_the_default_size_is_the_photographs_own_within_full_hd():
    assert quick(picture(60, 90), size=None).frames.shape[-2:] == (60, 90)
    large = torch.nn.functional.interpolate(picture(60, 90)[None],
                                            size=(1300, 1950), mode="bicubic")[0].clamp(-1, 1)
    assert quick(large, size=None, iterations=1).film.shape == (4, 3, 1080, 1620)


def test_finished_frames_are_sharper_than_enlarged_ones():
    video = quick(picture(240, 360) + 0.1 * torch.randn(
                      3, 240, 360, generator=torch.Generator().manual_seed(0)), size=360, seconds=0.5)
    finished, enlarged = size_quality(video)
    assert 0.8 < finished["sharpness, static"] < 1.2 and enlarged["sharpness, static"] < 0.5
    assert finished["sharpness, moving"] > 2 * enlarged["sharpness, moving"]
    assert 0.7 < finished["seam"] < 1.3 and finished["change, static"] < 1


def test_light_and_loop_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLANDSCAPE_WEIGHTS", str(write_weights(tmp_path)))
    save_image(picture(), tmp_path / "photo.png")
    options = ["--light", "Light_Sunset,deep night", "--light-amount",
               "0.8", "--loop", "--iterations", "2", "--seconds", "0.4", "--size", "64", "--direction", "3h"]
    threads = torch.get_num_threads()
    try:
        done = CliRunner().invoke(app, ["animate", str(tmp_path / "photo.png"),
                                        "-o", str(tmp_path / "x.mp4"), *options])
    finally: torch.set_num_threads(threads), torch.set_flush_denormal(False)
    assert done.exit_code == 0, done.output
    assert "Light_Sunset,deep night, 0.8" in done.output and "last to first" in done.output
    assert len(read_video(tmp_path / "x.mp4")[0]) == 12


@pytest.mark.parametrize("changes, words",
                         [(dict(direction="sideways"), list(CLOCK)),
                          (dict(variant="EOFIS"), ["EOIFS"]), (dict(seconds=0), ["possible"]),
                          (dict(fps=-3), ["possible"]), (dict(speed=float("nan")), ["speed"]),
                          (dict(light="sunny"), ["sunny", "deep night", "tour"]),
                          (dict(light="tour", amount=2), ["between 0 and 1"]), (dict(size=8), ["32"]),
                          (dict(mask=torch.zeros(30, 30)), ["mask"])])
def test_mistakes_are_named(changes, words):
    with pytest.raises(InputError) as error: quick(picture(), **changes)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("photo", [torch.zeros(3, 3, 3), torch.zeros(1, 50, 50), "absent.jpg"])
def test_bad_photos(photo):
    with pytest.raises(InputError): quick(photo)


def test_unwritable_output_leaves_nothing(tmp_path):
    video = quick(picture())
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file" / "x.mp4", tmp_path / "x.avi"):
        with pytest.raises(InputError): video.save(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_picture_that_is_all_sky():
    "With the mask `all` everything moves, and where hardly any water was found all of it is sky."
    found = regions(torch.rand(1, 3, 32, 32), bands(0.5, 0.9), torch.ones(1, 1, 8, 8))
    assert torch.equal(found[:, 1], torch.ones(1, 32, 32)) and horizon_of(found) == 1
    mixed = regions(torch.rand(1, 3, 32, 32), bands(0.4, 0.5), torch.ones(1, 1, 8, 8))
    assert mixed[:, 0].max() == 0 and mixed[0, 2, -1].min() > 0.9
