"""Colours of pictures and videos against formulas of their own; every kind of file; what is missing is
named."""
import gc
import os
import stat
import struct
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageCms

from deeplandscape import encoding, media, pictures
from deeplandscape.core import InputError
from deeplandscape.data import sources
from deeplandscape.encoding import CODECS, VIDEO_SUFFIXES, check_encoder, ffmpeg_exe, ffmpeg_has

COLOURS = np.array([[255, 255, 255], [0, 0, 0], [128, 128, 128],
                    [200, 60, 40], [60, 140, 70], [50, 90, 190], [225, 190, 70], [90, 60, 30]])
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def decode(v): return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
def encode(v): return np.where(v <= 0.0031308, 12.92 * v, 1.055 * np.clip(v, 0, None) ** (1 / 2.4) - 0.055)


def matrix_of(primaries, white=(0.3127, 0.3290)):
    "Linear RGB to XYZ, from chromaticities."
    xyz = lambda x, y: np.array([x / y, 1, (1 - x - y) / y])
    m = np.stack([xyz(*p) for p in primaries], 1)
    return m * np.linalg.solve(m, xyz(*white))


BT709 = matrix_of([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)])
P3 = matrix_of([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)])
BT2020 = matrix_of([(0.708, 0.292), (0.17, 0.797), (0.131, 0.046)])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50 = np.array([0.9642, 1, 0.8249])
TO_D50 = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ (BT709 @ np.ones(3)))) @ BRADFORD


# profiles, made by hand

def fixed(*values): return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def profile(space: bytes, tags: dict, pcs=b"XYZ ", kind=b"mntr"):
    "An ICC profile of version 2 with these tags."
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(*D50)} | tags
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    head = bytearray(128)
    head[4:8], head[8:12], head[12:16], head[16:20], head[20:24] = (bytes(4),
                                                                    bytes([2, 0x40, 0, 0]), kind, space, pcs)
    head[36:40], head[68:80] = b"acsp", fixed(*D50)
    whole = bytes(head) + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def gamma(value): return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256)) + bytes(2)


def rgb_profile(matrix, curve):
    columns = (TO_D50 @ matrix).T
    return profile(b"RGB ", {name + b"XYZ": b"XYZ " + bytes(4) + fixed(*c)
                             for name, c in zip((b"r", b"g", b"b"), columns)}
                   | {name + b"TRC": curve for name in (b"r", b"g", b"b")})


WIDE = {"display p3": (P3, 2.2), "bt2020": (BT2020, 2.2), "linear bt709": (BT709, 1.8)}


def stored_in(colours, matrix, power):
    linear = np.linalg.solve(matrix, BT709 @ decode(colours.T / 255)).T
    return (255 * np.clip(linear, 0, 1) ** (1 / power)).round().astype(np.uint8)


def tiles(colours): return np.asarray(colours, np.uint8).repeat(16, 0)[None].repeat(32, 0)
def middle(picture): return np.asarray(picture)[16, 8::16].astype(int)


@pytest.mark.parametrize("suffix, options",
                         [(".png", {}), (".tif", {}), (".jpg", dict(quality=100, subsampling=0)),
                          (".webp", dict(lossless=True))])
@pytest.mark.parametrize("space", WIDE)
def test_profiles_become_srgb(tmp_path, space, suffix, options):
    matrix, power = WIDE[space]
    stored = tiles(stored_in(COLOURS, matrix, power))
    Image.fromarray(stored).save(tmp_path / f"a{suffix}",
                                 icc_profile=rgb_profile(matrix, gamma(power)), **options)
    error = np.abs(middle(pictures.open_photo(tmp_path / f"a{suffix}")) - COLOURS)
    assert error.max() <= (4 if suffix == ".jpg" else 2), error
    assert np.abs(middle(stored) - COLOURS).max() >= 10       # what it would be without the profile


def test_profiles_hold_with_transparency_palette_orientation_and_reduction(tmp_path):
    matrix, power = WIDE["display p3"]
    icc, stored = rgb_profile(matrix, gamma(power)), Image.fromarray(tiles(stored_in(COLOURS, matrix, power)))
    clear = stored.convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 255))
    clear.save(tmp_path / "alpha.png", icc_profile=icc)
    stored.quantize(16).save(tmp_path / "palette.png", icc_profile=icc)
    turned = Image.Exif()
    turned[0x0112] = 3
    stored.rotate(180).save(tmp_path / "turned.png", icc_profile=icc, exif=turned)
    for name in ("alpha.png", "palette.png", "turned.png"):
        assert np.abs(middle(pictures.open_photo(tmp_path / name)) - COLOURS).max() <= 2, name
    large = stored.resize((16 * stored.width, 16 * stored.height), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.jpg", icc_profile=icc, quality=95)
    small = pictures.open_photo(tmp_path / "large.jpg", long_side=stored.width)
    assert np.abs(middle(small) - COLOURS).max() <= 4


@pytest.mark.parametrize("deep", [False, True])
def test_grey_with_a_profile(tmp_path, deep):
    "A grey picture in linear light, of 8 and of 16 bits."
    icc = profile(b"GRAY", {b"kTRC": gamma(1)})
    grey = np.array([40, 90, 140, 200, 255])
    linear = tiles((255 * decode(grey / 255)).round()[:, None])[..., 0] if not deep else \
        (65535 * decode(grey / 255)).round().astype(np.uint16).repeat(16)[None].repeat(32, 0)
    Image.fromarray(linear).save(tmp_path / "grey.tif", icc_profile=icc)
    got = middle(pictures.open_photo(tmp_path / "grey.tif"))
    assert (got == got[:, :1]).all() and np.abs(got[:, 0] - grey).max() <= (1 if deep else 5), got[:, 0]


def cmyk_profile(cyan):
    """A printer's profile with two steps of each ink: paper is white, black ink is black, cyan ink is this
    Lab colour."""
    table = []
    for c in (0, 1):
        for m in (0, 1):
            for y in (0, 1):
                for k in (0, 1):
                    lab = ((0, 0, 0) if k else cyan if (c, m, y) == (1, 0, 0)
                           else (100 - 25 * (c + m + y), 0, 0))
                    table += [round(lab[0] * 2.55), round(lab[1]) + 128, round(lab[2]) + 128]
    straight = bytes(range(256))
    lut = (b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
           + straight * 4 + bytes(table) + straight * 3)
    return profile(b"CMYK", {b"A2B0": lut}, pcs=b"Lab ", kind=b"prtr")


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_print_colours_with_a_profile(tmp_path, suffix):
    lab = np.array([59.6, -18, -14])
    f = np.array([lab[0] / 116 + 16 / 116 + lab[1] / 500, (lab[0] + 16) / 116,
                  (lab[0] + 16) / 116 - lab[2] / 200])
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    expected = 255 * encode(np.clip(np.linalg.solve(TO_D50 @ BT709, xyz), 0, 1))
    options = dict(quality=100) if suffix == ".jpg" else {}
    Image.new("CMYK", (32, 32), (255, 0, 0, 0)).save(tmp_path / f"ink{suffix}",
                                                     icc_profile=cmyk_profile(lab), **options)
    got = np.array(pictures.open_photo(tmp_path / f"ink{suffix}").getpixel((9, 9)))
    assert np.abs(got - expected).max() <= 4, (got, expected)
    Image.new("CMYK", (32, 32), (0, 0, 0, 0)).save(tmp_path / f"paper{suffix}",
                                                   icc_profile=cmyk_profile(lab), **options)
    assert min(pictures.open_photo(tmp_path / f"paper{suffix}").getpixel((9, 9))) >= 253


def test_srgb_stays_to_the_bit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for name, icc in [("none", None), ("srgb", SRGB)]:
        Image.fromarray(noise).save(tmp_path / f"{name}.png", icc_profile=icc)
        assert (np.asarray(pictures.open_photo(tmp_path / f"{name}.png")) == noise).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 600), st.binary(min_size=1, max_size=40), st.booleans())
def test_damaged_profiles_are_ignored(tmp_path_factory, at, junk, cut):
    icc = rgb_profile(P3, gamma(2.2))
    icc = icc[:at] if cut else icc[:at] + junk + icc[at + len(junk):]
    path = tmp_path_factory.mktemp("icc") / "a.png"
    Image.fromarray(tiles(COLOURS)).save(path, icc_profile=icc or b"?")
    assert pictures.open_photo(path).size == (128, 32)


@pytest.mark.parametrize("mode, icc", [("RGB", cmyk_profile((50, 0, 0))), ("L", rgb_profile(P3, gamma(2.2))),
                                       ("CMYK", SRGB), ("RGB", profile(b"GRAY", {b"kTRC": gamma(1)}))])
def test_a_profile_of_other_channels_is_ignored(tmp_path, mode, icc):
    picture = Image.fromarray(tiles(COLOURS)).convert(mode)
    picture.save(tmp_path / "with.tif", icc_profile=icc)
    picture.save(tmp_path / "without.tif")
    assert (np.asarray(pictures.open_photo(tmp_path / "with.tif"))
            == np.asarray(pictures.open_photo(tmp_path / "without.tif"))).all()


def test_heic(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    matrix, power = WIDE["display p3"]
    stored = Image.fromarray(tiles(stored_in(COLOURS, matrix, power)).repeat(2, 0))
    picture = heif.from_pillow(stored)
    picture.save(tmp_path / "phone.heic", quality=-1, chroma=444,
                 icc_profile=rgb_profile(matrix, gamma(power)))
    assert np.abs(middle(pictures.open_photo(tmp_path / "phone.heic")) - COLOURS).max() <= 5
    assert pictures.open_photo(tmp_path / "phone.heic", short_side=32).height == 32
    assert [name for name, _ in sources.find_photos(tmp_path)] == [f"{tmp_path.name}/phone.heic"]
    (tmp_path / "cut.heic").write_bytes((tmp_path / "phone.heic").read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read|damaged"):
        pictures.open_photo(tmp_path / "cut.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"deeplandscape\[heic\]"):
        pictures.open_photo(tmp_path / "phone.heic")


# videos

def bars(height, width, colours=COLOURS):
    "Vertical bars whose edges are even, as a frame (3, H, W)."
    edges = [2 * round(width * k / len(colours) / 2) for k in range(len(colours) + 1)]
    frame = np.zeros((3, height, width), np.uint8)
    for colour, a, b in zip(colours, edges, edges[1:]):
        frame[:, :, a:(b if b < edges[-1] else None)] = colour[:, None, None]
    return torch.from_numpy(frame), [(a + b) // 2 for a, b in zip(edges, edges[1:])]


SATURATED = np.array([[255, 255, 255], [255, 255, 0], [0, 255, 255],
                      [0, 255, 0], [255, 0, 255], [255, 0, 0], [0, 0, 255], [0, 0, 0]])


@pytest.mark.parametrize("size", [(64, 128), (65, 129), (108, 192), (578, 1024), (720, 1280)])
@pytest.mark.parametrize("colours", [COLOURS, SATURATED], ids=["natural", "saturated"])
def test_colours_of_an_mp4_come_back(tmp_path, size, colours):
    frame, columns = bars(*size, colours)
    back, _ = media.read_video(media.write_video([frame] * 2, tmp_path / "bars.mp4", crf=0))
    error = (back[1][:, size[0] // 2, columns].T.int() - torch.from_numpy(colours)).abs()
    assert error.max() <= 1, error


@pytest.mark.parametrize("suffix, codec, most", [(".mp4", None, 3), (".mov", None, 3), (".mp4", "h265", 5),
                                                 (".webm", None, 5), (".gif", None, 0), (".webp", None, 5)])
def test_colours_of_every_kind_of_video(tmp_path, suffix, codec, most):
    check_encoder_or_skip(f"a{suffix}", codec)
    frame, columns = bars(97, 255)
    frames = [frame.clone() for _ in range(4)]
    for k in range(4): frames[k][:, :4] = 60 * k  # WebP holds what does not change only once
    back, fps = media.read_video(media.write_video(frames, tmp_path / f"bars{suffix}", fps=25, codec=codec))
    assert len(back) == 4 and abs(fps - 25) < 0.1
    assert back.shape[2:] == ((97, 255) if suffix in (".gif", ".webp") else (98, 256))
    error = (back[3][:, 48, columns].T.int() - torch.from_numpy(COLOURS)).abs()
    assert error.max() <= most, error
    assert os.listdir(tmp_path) == [f"bars{suffix}"]


def check_encoder_or_skip(path, codec):
    try: return check_encoder(path, codec).encoder
    except InputError as error: pytest.skip(str(error))


def boxes(data: bytes, inside=(b"moov", b"trak", b"mdia", b"minf", b"stbl")):
    "Names and contents of the boxes of an mp4, down to the sample description."
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I", data[at:at + 4])[0], data[at + 4:at + 8]
        size = struct.unpack(">Q", data[at + 8:at + 16])[0] if size == 1 else size or len(data) - at
        if size < 8: return
        body = data[at + 8:at + size]
        yield name, body
        if name in inside: yield from boxes(body, inside)
        if name == b"stsd": yield from boxes(body[8 + 8 + 78:], inside)       # after the entry's own fields
        at += size


@pytest.mark.parametrize("name, codec", [("a.mp4", None), ("a.mov", None), ("a.mp4", "h265")])
def test_an_mp4_names_its_colours(tmp_path, name, codec):
    check_encoder_or_skip(name, codec)
    path = media.write_video(torch.zeros(3, 3, 64, 64), tmp_path / name, codec=codec)
    found = list(boxes(path.read_bytes()))
    colr = [body for box, body in found if box == b"colr"]
    assert len(colr) == 1 and colr[0][:4] in (b"nclx", b"nclc")
    assert struct.unpack(">HHH", colr[0][4:10]) == (1, 1, 1)
    order = [box for box, _ in found if box in (b"moov", b"mdat")]
    assert order == [b"moov", b"mdat"]                         # the index lies in front


def ffmpeg(*arguments, data=None):
    subprocess.run([ffmpeg_exe(), "-v", "error", "-y", *arguments], input=data, check=True)


@pytest.mark.parametrize("height, matrix", [(480, "smpte170m"), (720, "bt709")])
def test_a_video_that_names_no_matrix(tmp_path, height, matrix):
    frame, columns = bars(height, 640)
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"640x{height}", "-i",
           "-", "-vf", f"scale=out_color_matrix={matrix}:flags=accurate_rnd+full_chroma_int,format=yuv420p,"
           "setparams=colorspace=unknown:color_primaries=unknown:color_trc=unknown:range=tv", "-c:v",
           "libx264", "-crf", "0", str(tmp_path / "a.mp4"), data=frame.permute(1, 2, 0).numpy().tobytes())
    back, _ = media.read_video(tmp_path / "a.mp4")
    assert (back[0][:, height // 2, columns].T.int() - torch.from_numpy(COLOURS)).abs().max() <= 2


# high dynamic range

def pq(nits):
    y = (np.clip(nits, 0, None) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(nits):
    "Signal of display light in BT.2020 (n, 3), 1000 cd/m² at most: inverse OOTF (gamma 1.2), then the OETF."
    shown = nits / 1000
    luminance = shown @ np.array([0.2627, 0.6780, 0.0593])
    scene = shown * np.clip(luminance, 1e-9, None)[:, None] ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.clip(12 * scene - b, 1e-9, None)) + c)


def hdr_clip(path, signal, transfer, side=32):
    "A clip of flat patches from R'G'B' signals in BT.2020, as 10-bit YUV computed here."
    y = signal @ np.array([0.2627, 0.6780, 0.0593])
    cb, cr = (signal[:, 2] - y) / 1.8814, (signal[:, 0] - y) / 1.4746
    plane = lambda v, n: v.round().astype("<u2").repeat(n)[None].repeat(n, 0).tobytes()
    raw = plane(64 + 876 * y, side) + plane(512 + 896 * cb, side // 2) + plane(512 + 896 * cr, side // 2)
    ffmpeg("-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", f"{side * len(signal)}x{side}", "-i",
           "-", "-vf", f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv",
           "-c:v", "libx265", "-x265-params", "lossless=1:log-level=none",
           "-tag:v", "hvc1", str(path), data=raw * 2)


@pytest.mark.parametrize("transfer, signal", [("smpte2084", pq), ("arib-std-b67", hlg)])
def test_hdr_clips_are_tone_mapped(tmp_path, monkeypatch, transfer, signal):
    if not ffmpeg_has("libx265"): pytest.skip("no encoder for HDR clips")
    dim = np.array([[20, 20, 20], [70, 70, 70], [130, 130, 130], [120, 50, 40], [60, 120, 70], [50, 80, 140]])
    # and three lights above white
    linear = np.concatenate([decode(dim / 255), [[1, 1, 1], [2, 2, 2], [4.5, 4.5, 4.5]]])
    wide = np.linalg.solve(BT2020, BT709 @ linear.T).T
    hdr_clip(tmp_path / "a.mp4", signal(203 * wide), transfer)
    back, _ = media.read_video(tmp_path / "a.mp4")
    got = back[0][:, 16, 16::32].T.numpy().astype(int)
    assert np.abs(got[:6] - dim).max() <= 2, got
    lights = got[6:, 1]
    assert (np.diff(lights) > 0).all() and lights[0] > 180 and np.ptp(got[6:], 1).max() <= 3, got
    small, _ = media.read_video(tmp_path / "a.mp4", size=16)
    assert small.shape[2] == 16 and np.abs(small[0][:, 8, 8::16].T.numpy().astype(int) - got).max() <= 3
    monkeypatch.setattr(media, "ffmpeg_has", lambda name, what="encoders": False)
    with pytest.raises(InputError, match=r"HDR \((PQ|HLG)\).*SDR"):
        media.read_video(tmp_path / "a.mp4")


# what is missing is named

def fake_ffmpeg(folder, lacks):
    "The ffmpeg in use, without some of its encoders."
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\nif [ \"$2\" = -encoders ]; then '{ffmpeg_exe()}' "
                    f"\"$@\" | grep -v '{lacks}'; else exec '{ffmpeg_exe()}' \"$@\"; fi\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_missing_encoder_is_named_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", fake_ffmpeg(tmp_path, "libx264"))
    asked = []
    with pytest.raises(InputError, match="no encoder libx264"):
        media.write_video((asked.append(k) for k in range(3)), tmp_path / "a.mp4")
    assert not asked and check_encoder("a.gif").encoder == "gif"
    for broken in (tmp_path / "absent", tmp_path):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
        with pytest.raises(InputError, match="cannot be run"):
            check_encoder("a.mp4")
    monkeypatch.setattr(encoding.imageio_ffmpeg, "get_ffmpeg_exe",
                        lambda: (_ for _ in ()).throw(RuntimeError("none")))
    with pytest.raises(InputError, match="There is no ffmpeg"):
        check_encoder("a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match="There is no ffmpeg"):
        media.read_video(tmp_path / "b.mp4")


@pytest.mark.parametrize("arguments, words",
                         [(("a.avi",), ".mp4, .mov"), (("a",), "end the name"),
                          (("a.mp4", "vp9"), "does not go into"), (("a.mp4", "nosuch"), "unknown"),
                          (("a.mp4", None, 52), "crf 52"), (("a.mp4", None, -1), "crf -1"),
                          (("a.mp4", None, float("nan")), "crf nan"), (("a.webp", None, 20), "no crf")])
def test_impossible_videos_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        check_encoder(*arguments)


def test_a_larger_crf_is_a_smaller_file(tmp_path):
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sizes = [media.write_video(noise, tmp_path / "a.mp4", crf=crf).stat().st_size for crf in (0, 18, 40)]
    assert sizes[0] > 1.2 * sizes[1] > 1.2 * 1.2 * sizes[2]


# time and memory

def delays(path):
    "Milliseconds of each picture of an animation."
    with Image.open(path) as moving:
        for k in range(moving.n_frames):
            moving.seek(k)
            moving.load()
            yield moving.info["duration"]


@pytest.mark.parametrize("fps", [1, 10, 23.976, 25, 30, 48, 50, 59.94, 60, 100, 120, 240])
def test_gif_timing(tmp_path, fps):
    count = max(2, round(2 * fps))
    frames = (torch.full((3, 16, 16), 2 * (k % 100) / 99 - 1) for k in range(count))
    shown = list(delays(media.write_video(frames, tmp_path / "a.gif", fps=fps)))
    assert min(shown) >= 20 and abs(sum(shown) - 1000 * count / fps) <= 20, (min(shown), sum(shown))
    assert len(shown) == min(count, len(shown)) and (fps > 50 or len(shown) == count)


@pytest.mark.parametrize("fps", [10, 30, 60])
def test_webp_timing(tmp_path, fps):
    frames = (torch.full((3, 16, 16), 2 * (k % 10) / 9 - 1) for k in range(2 * fps))
    shown = list(delays(media.write_video(frames, tmp_path / "a.webp", fps=fps)))
    assert len(shown) == 2 * fps and abs(sum(shown) - 2000) <= 20


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_frames_are_streamed(tmp_path, suffix):
    "No more than a few frames are alive at any time."
    check_encoder_or_skip(f"a{suffix}", None)
    gc.freeze()     # what other tests have left need not be searched forty times
    alive, most = weakref.WeakSet(), []

    def frames():
        for k in range(40):
            frame = torch.full((3, 32, 32), k / 40)
            alive.add(frame)
            gc.collect()
            most.append(len(alive))
            yield frame
            del frame

    media.write_video(frames(), tmp_path / f"a{suffix}", fps=25)
    gc.unfreeze()
    assert max(most) <= 3


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_a_failure_half_way_leaves_nothing(tmp_path, suffix):
    check_encoder_or_skip(f"a{suffix}", None)

    def frames():
        yield from torch.zeros(5, 3, 32, 32)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        media.write_video(frames(), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_one_list_of_suffixes():
    assert set(VIDEO_SUFFIXES) - {".webp"} <= sources.VIDEOS and ".heic" in sources.PICTURES
    assert not sources.PICTURES & sources.VIDEOS
    assert all(codec.suffixes and (codec.crf is None or 0 <= codec.crf <= codec.worst)
               for codec in CODECS.values())
