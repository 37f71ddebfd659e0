"""Core: seeds, photographs of every kind, videos, and files that are complete or absent."""
import builtins
import errno
import hashlib
import http.server
import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from deeplandscape import core, files, media, registry
from deeplandscape.core import InputError

KEY = st.one_of(st.integers(-2**40, 2**40), st.text(max_size=8))


def picture(h=40, w=60):
    ramp = np.linspace(0, 255, w)[None].repeat(h, 0)
    return np.stack([ramp, ramp.T[:h, :1].repeat(w, 1) if h <= w else ramp, 255 - ramp], -1).astype(np.uint8)


# seeds

@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=6), st.lists(KEY, max_size=3), st.integers(1, 40))
def test_rows_depend_on_their_seed_alone(seeds, keys, n):
    whole = core.item_normal((n,), seeds, *keys)
    for row, seed in zip(whole, seeds):
        assert torch.equal(row, core.item_normal((n,), [seed], *keys)[0])
    assert torch.equal(whole.flip(0), core.item_normal((n,), seeds[::-1], *keys))


@given(st.tuples(st.integers(0, 2**40), KEY, KEY), st.tuples(st.integers(0, 2**40), KEY, KEY))
def test_other_keys_other_seeds(a, b):
    same = core.item_generator(*a).initial_seed() == core.item_generator(*b).initial_seed()
    assert same == (a == b)


def test_the_number_of_a_seed_counts_not_its_type():
    assert core.item_generator(np.int64(3), "z").initial_seed() == core.item_generator(3, "z").initial_seed()


def test_seeds_do_not_touch_the_global_state():
    before = torch.get_rng_state()
    core.item_normal((4,), [1, 2])
    assert torch.equal(before, torch.get_rng_state())


# photographs

def save(image, path, **options):
    image.save(path, **options)
    return path


KINDS = {
    "grey.png": lambda a: Image.fromarray(a).convert("L"),
    "rgba.png": lambda a: Image.fromarray(a).convert("RGBA"),
    "grey_alpha.png": lambda a: Image.fromarray(a).convert("LA"),
    "palette.png": lambda a: Image.fromarray(a).quantize(64),
    "bits.png": lambda a: Image.fromarray(a).convert("1"),
    "deep.png": lambda a: Image.fromarray(a[..., 0].astype(np.uint16) * 257),
    "deep.tif": lambda a: Image.fromarray(a[..., 0].astype(np.int32) * 257),
    "real.tif": lambda a: Image.fromarray(a[..., 0].astype(np.float32) / 255),
    "print.jpg": lambda a: Image.fromarray(a).convert("CMYK"),
    "rgb.webp": lambda a: Image.fromarray(a),
    "moving.gif": lambda a: Image.fromarray(a),
}


@pytest.mark.parametrize("name", KINDS)
def test_pictures_of_every_kind(tmp_path, name):
    a = picture()
    photo = media.read_photo(save(KINDS[name](a), tmp_path / name))
    assert photo.shape == (3, 40, 60) and photo.dtype == torch.float32
    assert photo.min() >= -1 and photo.max() <= 1 and photo.std() > 0.1
    if name != "bits.png":  # brighter to the right or, in the grey ones, at least as the red channel says
        grey = len(set(KINDS[name](a).getbands()) & {"L", "I", "F"}) or name.startswith("deep")
        expected = np.asarray(Image.fromarray(a).convert("L")) if name.startswith("grey") else a[..., 0]
        got = media.to_uint8(photo)[0].numpy().astype(float)
        assert np.abs(got - expected).mean() < (3 if grey else 12)


def test_transparent_is_white(tmp_path):
    clear = save(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), tmp_path / "clear.png")
    assert (media.read_photo(clear) == 1).all()


def test_sixteen_bits_keep_their_range(tmp_path):
    deep = Image.fromarray(np.full((20, 20), 32768, np.uint16))
    assert media.read_photo(save(deep, tmp_path / "deep.png")).abs().max() < 0.01


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(picture()), tmp_path / "turned.png", exif=exif)
    turned = media.to_uint8(media.read_photo(path))
    assert turned.shape[1:] == ((40, 60) if orientation < 5 else (60, 40))
    assert media.read_photo(path, max_side=30).shape[1:] == ((20, 30) if orientation < 5 else (30, 20))
    expected = {1: lambda t: t, 2: lambda t: t.flip(2), 3: lambda t: t.flip(1, 2), 4: lambda t: t.flip(1),
                5: lambda t: t.transpose(1, 2), 6: lambda t: t.rot90(-1, (1, 2)),
                7: lambda t: t.transpose(1, 2).flip(1, 2), 8: lambda t: t.rot90(1, (1, 2))}[orientation]
    assert torch.equal(turned, expected(torch.from_numpy(picture()).permute(2, 0, 1)))


@settings(max_examples=12, deadline=None)
@given(st.integers(16, 200), st.integers(16, 200), st.integers(16, 100))
def test_reduced_to_the_longer_side(tmp_path_factory, h, w, most):
    path = tmp_path_factory.mktemp("side") / "a.jpg"
    Image.new("RGB", (w, h)).save(path)
    shape = media.read_photo(path, max_side=most).shape
    assert max(shape[1:]) == min(most, max(h, w)) and min(shape[1:]) >= 16


def test_a_panorama_is_read_small(tmp_path):
    path = save(Image.new("RGB", (9000, 700)), tmp_path / "wide.jpg")
    assert media.read_photo(path, max_side=900).shape == (3, 70, 900)


def bad_pictures(folder):
    save(Image.fromarray(picture()), folder / "whole.jpg", quality=95)
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:700])
    save(Image.fromarray(picture(300, 400)), folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:300])
    save(Image.new("RGB", (3, 3)), folder / "tiny.png")
    (folder / "words.jpg").write_text("these are words")
    (folder / "empty.png").write_bytes(b"")
    return [folder / n for n in ("cut.jpg", "cut.png", "tiny.png", "words.jpg", "empty.png", "missing.png",
                                 ".")]


def test_bad_pictures_are_one_sentence(tmp_path):
    for path in bad_pictures(tmp_path):
        with pytest.raises(InputError) as error:
            media.read_photo(path)
        text = str(error.value)
        assert "\n" not in text and text.endswith(".") and len(text) < 300, text


def test_a_bomb_is_refused(tmp_path):
    path = save(Image.new("1", (20_000, 20_000)), tmp_path / "bomb.png")
    with pytest.raises(InputError, match="megapixels"):
        media.read_photo(path)


@given(st.integers(0, 255))
def test_bytes_survive(value):
    x = torch.tensor([value], dtype=torch.uint8)
    assert torch.equal(media.to_uint8(media.from_uint8(x)), x)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_saved_pictures_come_back(tmp_path, suffix):
    image = media.from_uint8(torch.from_numpy(picture()).permute(2, 0, 1))
    back = media.read_photo(media.save_image(image, tmp_path / f"new/x{suffix}"))
    assert (back - image).abs().mean() < (1e-6 if suffix == ".png" else 0.05)


# videos

def clip(n=9, h=34, w=50):
    t = torch.linspace(0, 1, n).view(n, 1, 1, 1)
    x = torch.linspace(0, 6, w).view(1, 1, 1, w)
    return torch.sin(x + 6 * t).expand(n, 3, h, w) * torch.tensor([1, 0.5, -0.5]).view(1, 3, 1, 1)


@pytest.mark.parametrize("suffix, tolerance", [(".mp4", 0.08), (".gif", 0.06)])
@pytest.mark.parametrize("size", [(34, 50), (35, 51), (16, 17)])
def test_videos_come_back(tmp_path, suffix, tolerance, size):
    frames = clip(9, *size)
    path = media.write_video(frames, tmp_path / f"v{suffix}", fps=10)
    back, fps = media.read_video(path)
    assert len(back) == 9 and abs(fps - 10) < 0.1
    h, w = size
    assert back.shape[2] - h in (0, 1) and back.shape[3] - w in (0, 1)
    assert (media.from_uint8(back[:, :, :h, :w]) - frames).abs().mean() < tolerance
    assert os.listdir(tmp_path) == [path.name]


def test_a_video_may_come_from_a_generator_or_bytes(tmp_path):
    media.write_video((f for f in clip()), tmp_path / "a.mp4", fps=29.97)
    media.write_video(media.to_uint8(clip()), tmp_path / "b.mp4", fps=29.97)
    a, b = media.read_video(tmp_path / "a.mp4"), media.read_video(tmp_path / "b.mp4")
    assert torch.equal(a[0], b[0]) and abs(a[1] - 29.97) < 0.01


def test_gif_keeps_its_duration(tmp_path):
    media.write_video(clip(60), tmp_path / "a.gif", fps=30)
    with Image.open(tmp_path / "a.gif") as gif:
        total = 0
        for k in range(gif.n_frames):
            gif.seek(k)
            total += gif.info["duration"]
    assert abs(total - 2000) <= 20


def test_one_frame_is_a_video(tmp_path):
    assert len(media.read_video(media.write_video(clip(1), tmp_path / "one.mp4"))[0]) == 1


@pytest.mark.parametrize("size, shape", [(20, (20, 30)), (None, (40, 60))])
def test_reading_smaller(tmp_path, size, shape):
    media.write_video(clip(5, 40, 60), tmp_path / "a.mp4")
    frames, _ = media.read_video(tmp_path / "a.mp4", max_frames=3, size=size)
    assert frames.shape == (3, 3, *shape)


def test_bad_videos(tmp_path):
    media.write_video(clip(), tmp_path / "good.mp4")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:600])
    (tmp_path / "words.mp4").write_text("words")
    for path in [tmp_path / "cut.mp4", tmp_path / "words.mp4", tmp_path / "missing.mp4", tmp_path]:
        with pytest.raises(InputError):
            media.read_video(path)
    mixed = [torch.zeros(3, 16, 16), torch.zeros(3, 16, 18)]
    for frames, name in [(clip(), "a.xyz"), (clip()[:0], "a.mp4"), (clip()[:, :1], "a.mp4"), (mixed, "a.gif"),
                         (mixed, "a.mp4")]:
        with pytest.raises(InputError):
            media.write_video(frames, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.mp4", "good.mp4", "words.mp4"]


def test_an_encoder_that_dies_is_noticed(tmp_path, monkeypatch):
    def writer(path, *args, **options):
        while True:
            yield

    monkeypatch.setattr(media.imageio_ffmpeg, "write_frames", writer)
    with pytest.raises(InputError, match="encoded"):
        media.write_video(clip(), tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


# files

class FullDisk:
    "open() whose files take so many bytes and no more."

    def __init__(self, room):
        self.room, self.open = room, builtins.open

    def __call__(self, path, mode="r", *args, **options):
        file = self.open(path, mode, *args, **options)
        if "w" in mode or "a" in mode:
            write = file.write

            class Writer:
                def __getattr__(_, name):
                    return getattr(file, name)

                def __enter__(_):
                    return _

                def __exit__(_, *error):
                    file.close()

                def write(_, data):
                    self.room -= len(data)
                    if self.room < 0:
                        write(data[:len(data) // 2])
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return write(data)

            return Writer()
        return file


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = files.save_tensors(tmp_path / "model.safetensors", {"w": torch.ones(10)}, {"step": 1})
    monkeypatch.setattr(builtins, "open", FullDisk(1000))
    with pytest.raises(InputError, match="disk is full"):
        files.save_tensors(path, {"w": torch.ones(10_000)}, {"step": 2})
    monkeypatch.undo()
    assert files.load_tensors(path)[1] == {"step": 1} and os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_for_what_writes_itself(tmp_path):
    with pytest.raises(InputError, match="disk is full"), files.writing("x"), open("/dev/full", "w") as file:
        file.write("x" * 100_000)


def test_an_error_or_interrupt_leaves_nothing(tmp_path):
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), files.atomic(tmp_path / "deep" / "a.txt") as partial:
            partial.write_text("half")
            raise error
    assert not list((tmp_path / "deep").iterdir())


def test_atomic_keeps_suffix_and_folder(tmp_path):
    with files.atomic(tmp_path / "a.b.mp4") as partial:
        assert partial.suffix == ".mp4" and partial.parent == tmp_path and partial.name != "a.b.mp4"
        partial.write_text("x")
    assert os.listdir(tmp_path) == ["a.b.mp4"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "x.png", tmp_path / ("n" * 300 + ".png")):
        with pytest.raises(InputError):
            media.save_image(torch.zeros(3, 16, 16), path)
    assert os.listdir(tmp_path) == ["file"]


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.text("abcdef.", min_size=1, max_size=5),
                       st.lists(st.floats(-1, 1, width=32), max_size=5), max_size=4),
       st.dictionaries(st.text(max_size=4),
                       st.one_of(st.none(), st.integers(), st.text(max_size=4), st.lists(st.booleans()))))
def test_tensors_and_description_come_back(tmp_path_factory, tensors, meta):
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    tensors = {k: torch.tensor(v) for k, v in tensors.items()}
    files.save_tensors(path, tensors, meta)
    back, read = files.load_tensors(path)
    assert (read == meta and back.keys() == tensors.keys()
            and all(torch.equal(back[k], tensors[k]) for k in back))


def test_tensors_of_every_type_and_shared_memory(tmp_path):
    base = torch.arange(12)
    tensors = dict(a=base, b=base[3:6], c=base.view(3, 4).T, d=torch.tensor(1.5, dtype=torch.bfloat16),
                   e=torch.rand(2) > 2)
    back, _ = files.load_tensors(files.save_tensors(tmp_path / "x.safetensors", tensors))
    assert all(torch.equal(back[k], tensors[k]) and back[k].dtype == tensors[k].dtype for k in tensors)


@pytest.mark.parametrize("keep", [0, 4, 8, 50, 150, -1])
def test_a_truncated_file_is_noticed(tmp_path, keep):
    path = files.save_tensors(tmp_path / "x.safetensors", {"w": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="damaged"):
        files.load_tensors(path)


def test_a_pickle_is_refused(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="not a safetensors"):
        files.load_tensors(tmp_path / "x.pth")


# weights

class Server(http.server.SimpleHTTPRequestHandler):
    data, cut, asked = bytes(range(256)) * 4000, None, []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data[:self.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DEEPLANDSCAPE_WEIGHTS", raising=False)
    Server.cut, Server.asked = None, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def entry(url, digest):
    return registry.Weights("net.pth", "a net", "none", url + "net.pth", digest)


def test_a_download_that_broke_off_leaves_nothing_and_is_fetched_once(server, tmp_path, monkeypatch):
    digest = hashlib.sha256(Server.data).hexdigest()
    monkeypatch.setitem(registry.WEIGHTS, "net", entry(server, digest))
    Server.cut = 300_000
    with pytest.raises(InputError, match="could not be fetched.*DEEPLANDSCAPE_WEIGHTS"):
        registry.weights_path("net")
    assert not list((tmp_path / "cache").iterdir())
    Server.cut = None
    assert registry.weights_path("net").read_bytes() == Server.data
    asked = len(Server.asked)
    registry.weights_path("net")
    assert len(Server.asked) == asked, "from the cache"


def test_a_wrong_download_is_thrown_away(server, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.WEIGHTS, "net", entry(server, "00" * 32))
    with pytest.raises(InputError, match="SHA-256"):
        registry.weights_path("net")
    assert not list((tmp_path / "cache").iterdir())


def test_embedded_weights_are_registered_and_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_packaged", lambda: tmp_path / "weights")
    with pytest.raises(InputError, match="not in this installation"):
        registry.weights_path("generator")
    trained = files.save_tensors(tmp_path / "best.safetensors", {"w": torch.ones(3)}, {"steps": 5})
    registry.register_weights("generator", trained, "# Card")
    path = registry.weights_path("generator")
    assert (files.load_tensors(path)[1] == {"steps": 5}
            and (tmp_path / "weights" / "generator.md").read_text() == "# Card\n")
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(InputError, match="damaged"):
        registry.weights_path("generator")
    registry.register_weights("generator", trained, "# Card 2")
    assert registry.weights_path("generator") == path


# devices and progress

def test_devices():
    assert core.pick_device("cpu").type == "cpu" and core.pick_device().type in ("cpu", "cuda", "mps")
    for wrong in ("gpu", "cuda:77", None, 5.5):
        with pytest.raises(InputError):
            core.pick_device(wrong)


def test_progress_is_silent_without_a_terminal(capfd, monkeypatch):
    monkeypatch.delenv("DEEPLANDSCAPE_PROGRESS", raising=False)
    assert sum(core.progress(range(5), "adding")) == 10
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("DEEPLANDSCAPE_PROGRESS", "1")
    assert sum(core.progress(range(5), "adding")) == 10
    assert "adding" in capfd.readouterr().err
