"""Image files and folders as users have them: turned, damaged, hostile, oddly named; and batches of their images."""

import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tinycnn.errors import DataError, UsageError
from tinycnn.preprocessing import decode, image, load
from tinycnn.preprocessing.image import (
    ImageDataGenerator,
    Preprocessing,
    array_to_img,
    img_to_array,
    list_images,
    load_img,
)
from tinycnn.preprocessing.load import pillow_warnings_hidden

ROOT = Path(__file__).resolve().parent.parent


def noise(height=12, width=10, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path, x, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(path, **options)
    return path


def png_claiming(width, height, data=b""):
    """A PNG file whose header claims a size."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.fixture
def tree(tmp_path):
    """Two classes, 7 and 5 images of 12 x 10 pixels."""
    for label, (name, count) in enumerate({"angelfish": 7, "clownfish": 5}.items()):
        for i in range(count):
            save(tmp_path / "photos" / name / f"{i}.png", noise(seed=10 * label + i))
    return tmp_path / "photos"


def flow(tree, generator=None, **arguments):
    return ImageDataGenerator(**(generator or {})).flow_from_directory(
        tree, **({"target_size": (12, 10), "class_mode": "sparse", "batch_size": 4} | arguments)
    )


AUGMENTED = {"rescale": 1 / 255, "shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True}


class TestOneFile:
    def test_the_papers_calls(self, tree, capsys):
        train_datagen = ImageDataGenerator(rescale=1.0 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
        training_set = train_datagen.flow_from_directory(
            str(tree), target_size=(64, 64), batch_size=32, class_mode="binary"
        )
        assert capsys.readouterr().out == "Found 12 images belonging to 2 classes.\n"
        x, y = next(training_set)
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((12, 64, 64, 3), np.float32, (12,), np.float32)
        assert training_set.class_indices == {"angelfish": 0, "clownfish": 1}
        test_image = image.load_img(str(tree / "angelfish" / "0.png"), target_size=(64, 64))
        test_image = np.expand_dims(image.img_to_array(test_image), axis=0)
        assert (test_image.shape, test_image.dtype) == ((1, 64, 64, 3), np.float32)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
    def test_exif_orientation(self, tmp_path, orientation, suffix):
        upright = noise(4, 6)
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright),
            7: np.rot90(upright, 2).transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True, "exact": True} if suffix == "webp" else {}
        path = save(tmp_path / f"photo.{suffix}", np.ascontiguousarray(stored), exif=exif, **options)
        assert np.array_equal(img_to_array(load_img(path)), upright)
        if suffix != "tif":  # Pillow itself turns TIFF files
            assert np.array_equal(img_to_array(load_img(path, apply_exif=False)), stored)

    def test_size_and_crop(self, tmp_path):
        x = np.zeros((10, 30, 3), np.uint8)
        x[:, 10:20] = 255
        path = save(tmp_path / "a.png", x)
        assert load_img(path, target_size=(5, 20)).size == (20, 5)
        assert img_to_array(load_img(path, target_size=(5, 5), keep_aspect_ratio=True)).min() == 255
        line = save(tmp_path / "line.png", noise(1, 500))
        assert load_img(line, target_size=(64, 2), keep_aspect_ratio=True).size == (2, 64)

    def test_16_bits_are_scaled_not_clipped(self, tmp_path):
        x = np.linspace(0, 65535, 120).reshape(10, 12).astype(np.uint16)
        expected = np.round(x / 257)
        for name in ("a.png", "a.tif", "a.ppm"):
            Image.fromarray(x).save(tmp_path / name)
            for color_mode in ("rgb", "grayscale"):
                y = img_to_array(load_img(tmp_path / name, color_mode=color_mode))
                assert np.abs(y - expected[..., None]).max() <= 1, (name, color_mode)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255]), ([-1e6, 0.0, 1e6], [0, 128, 255])],
    )
    def test_floats(self, tmp_path, values, expected):
        Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
        assert img_to_array(load_img(tmp_path / "a.tif"))[0, :, 0].tolist() == expected

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "LA", "RGBA", "I;16", "I;16B", "I"])
    def test_every_kind_becomes_rgb_as_documented(self, tmp_path, mode):
        rgb = Image.fromarray(noise())
        if mode.startswith("I"):
            grey = noise(channels=1)[..., 0]
            wide = grey.astype(np.uint16) * 257
            kinds = {"I;16": wide, "I;16B": wide.astype(">u2"), "I": wide.astype(np.int32)}
            img, wanted = Image.fromarray(kinds[mode]), np.repeat(grey[..., None], 3, axis=2)
        else:
            img = rgb.convert(mode)
            wanted = np.asarray(img.convert("RGB"))
        assert img.mode == mode
        img.save(tmp_path / "a.tif")
        assert np.array_equal(np.asarray(load_img(tmp_path / "a.tif")), wanted)

    def test_16_bit_colour_keeps_the_upper_bits(self, tmp_path):
        x = np.random.default_rng(0).integers(0, 65536, (5, 4, 3), dtype=np.uint16)

        def chunk(name, content):
            return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in x)
        header = struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
        assert np.array_equal(np.asarray(load_img(tmp_path / "a.png")), x >> 8)

    def test_blocks_of_rows_are_one_picture(self, tmp_path, monkeypatch):
        x = np.random.default_rng(0).normal(0, 1000, (23, 7)).astype(np.float32)
        x[3, 4], x[20, 1] = 4000, -4000  # the ends lie in different blocks
        Image.fromarray(x).save(tmp_path / "a.tif")
        whole = np.asarray(load_img(tmp_path / "a.tif"))
        monkeypatch.setattr(load, "BLOCK", 15)
        assert np.array_equal(np.asarray(load_img(tmp_path / "a.tif")), whole)
        assert (whole.min(), whole.max()) == (0, 255)

    def test_floats_that_are_none(self, tmp_path):
        Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 5]], np.float32)).save(tmp_path / "a.tif")
        assert img_to_array(load_img(tmp_path / "a.tif"))[0, :, 0].tolist() == [128, 255, 0, 128]

    def test_transparency(self, tmp_path):
        x = noise(6, 6, 4)
        path = save(tmp_path / "a.png", x)
        assert np.array_equal(img_to_array(load_img(path)), x[..., :3])
        assert np.array_equal(img_to_array(load_img(path, "rgba")), x)
        palette = Image.fromarray(x[..., :3]).quantize(8)
        palette.save(tmp_path / "p.png", transparency=bytes([0, 128, 255, 3, 4, 5, 6, 7]))
        assert np.array_equal(img_to_array(load_img(tmp_path / "p.png")), img_to_array(palette.convert("RGB")))
        assert img_to_array(load_img(tmp_path / "p.png", "rgba"))[..., 3].min() < 255

    def test_first_frame_of_an_animation(self, tmp_path):
        frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
        for name in ("a.gif", "a.webp", "a.png"):
            options = {"lossless": True} if name.endswith("webp") else {}
            frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
            assert img_to_array(load_img(tmp_path / name))[0, 0].tolist() == [255, 0, 0]

    def test_path_kinds(self, tmp_path):
        path = save(tmp_path / "a.png", noise())
        data = io.BytesIO(path.read_bytes())
        for kind in (path, str(path), os.fsencode(path), data, data):
            assert np.array_equal(img_to_array(load_img(kind)), noise())

    def test_arrays_and_images(self):
        for channels in (1, 3, 4):
            x = noise(channels=channels).astype(np.float32)
            assert np.array_equal(img_to_array(array_to_img(x, scale=False)), x)
            stretched = img_to_array(array_to_img(x / 1000 + 3))
            assert (stretched.min(), stretched.max()) == (0, 255)
        assert np.asarray(array_to_img(np.full((2, 2, 1), 7.0))).max() == 0
        assert np.asarray(array_to_img(np.full((2, 2, 3), 300.0), scale=False)).max() == 255
        with pytest.raises(DataError, match="not \\(4, 4\\)"):
            array_to_img(np.zeros((4, 4)))
        with pytest.raises(UsageError, match="channels_last"):
            img_to_array(Image.new("L", (2, 2)), "channels_first")

    @pytest.mark.parametrize(
        "arguments",
        [
            {"color_mode": "cmyk"},
            {"color_mode": ["rgb"]},
            {"interpolation": "cubic"},
            {"target_size": 64},
            {"target_size": (0, 5)},
            {"target_size": (5.0, 5)},
            {"max_pixels": "many"},
        ],
    )
    def test_wrong_arguments(self, tmp_path, arguments):
        path = save(tmp_path / "a.png", noise())
        (name,) = arguments
        with pytest.raises(UsageError, match=name):
            load_img(path, **arguments)


class TestBadFiles:
    """Every refusal is a DataError of one line that begins with the file."""

    def refusal(self, path, **arguments):
        with pytest.raises(DataError) as caught:
            load_img(path, **arguments)
        message = str(caught.value)
        assert message.isprintable()
        assert message.startswith(str(path).replace("\n", "\\n").replace("\udcff", "\\udcff"))
        return message.removeprefix(str(path))

    def test_missing_and_folders(self, tmp_path):
        (tmp_path / "x.jpg").mkdir()
        assert "No such file" in self.refusal(tmp_path / "none.jpg")
        assert "folder" in self.refusal(tmp_path / "x.jpg")
        assert "folder" in self.refusal(tmp_path)

    def test_empty_and_text(self, tmp_path):
        (tmp_path / "empty.jpg").touch()
        (tmp_path / "text.jpg").write_text("a clownfish")
        assert "empty" in self.refusal(tmp_path / "empty.jpg")
        assert "not an image" in self.refusal(tmp_path / "text.jpg")

    @pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tif"])
    def test_truncated_anywhere(self, tmp_path, suffix):
        whole = save(tmp_path / f"whole.{suffix}", noise(40, 40)).read_bytes()
        path = tmp_path / f"cut.{suffix}"
        for length in np.linspace(1, len(whole) * 0.97, 25).astype(int):
            path.write_bytes(whole[:length])
            self.refusal(path)

    def test_formats_that_run_programs_are_not_opened(self, tmp_path):
        path = tmp_path / "drawing.png"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
        assert "not an image" in self.refusal(path)

    @pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
    @pytest.mark.parametrize("action", ["error", "always"])
    def test_bombs_are_refused_before_decoding(self, tmp_path, side, action):
        path = tmp_path / "bomb.png"
        path.write_bytes(png_claiming(side, side))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            start = time.perf_counter()
            assert "pixels" in self.refusal(path)
            assert time.perf_counter() - start < 1
        assert not caught

    def test_pixel_cap(self, tmp_path):
        path = save(tmp_path / "a.png", noise(10, 10))
        assert load_img(path, max_pixels=100).size == (10, 10)
        assert "10x10 pixels are more than max_pixels=99" in self.refusal(path, max_pixels=99)

    def test_a_jpeg_of_many_layers_does_not_take_minutes(self, tmp_path):
        """Each layer costs a few bytes and a walk over the whole picture; their number has no limit in the format."""
        data = io.BytesIO()
        Image.new("RGB", (1000, 1000), "teal").save(data, "JPEG", progressive=True)
        content = data.getvalue()
        *_, start = (i for i in range(len(content)) if content[i : i + 2] == b"\xff\xda")
        path = tmp_path / "a.jpg"
        path.write_bytes(content[:-2] + content[start:-2] * 3000 + content[-2:])
        began = time.perf_counter()
        assert "layers of 1000x1000" in self.refusal(path, max_pixels=10**6)
        assert time.perf_counter() - began < 1
        path.write_bytes(content)
        assert load_img(path, max_pixels=10**6).size == (1000, 1000)

    def test_marks_on_the_edge_of_what_is_read_at_once_count(self):
        content = b"\0" * (2**20 - 1) + b"\xff\xda" + b"\0" * 2**20 + b"\xff\xda"
        file = io.BytesIO(content)
        file.seek(5)
        assert (load._scans(file), file.tell()) == (2, 5)

    def test_a_file_far_larger_than_its_pixels_may_be_is_not_read(self, tmp_path):
        """WebP and AVIF decoders read the whole file, however long it is."""
        path = save(tmp_path / "a.webp", noise())
        size = 9 * 10**9
        os.truncate(path, size)
        assert f"{size} bytes; at most {8 * 64 * 10**6} are read" in self.refusal(path)
        os.truncate(path, 2**26 + 1)
        assert f"at most {2**26}" in self.refusal(path, max_pixels=100)

    @pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the memory held")
    @pytest.mark.parametrize("mode", ["I;16", "CMYK", "P"])
    def test_the_memory_for_the_largest_picture(self, tmp_path, mode):
        """A pixel takes less than ten bytes, whatever is made of it on the way."""
        side = 3000
        Image.new(mode, (side, side)).save(tmp_path / "a.tif")
        script = (
            "import sys\nfrom benchmarks.findings import status_bytes\n"
            "from tinycnn.preprocessing.load import load_img\n"
            "before = status_bytes('VmHWM'); load_img(sys.argv[1], target_size=(64, 64), interpolation='lanczos')\n"
            "print(status_bytes('VmHWM') - before)"
        )
        command = [sys.executable, "-c", script, tmp_path / "a.tif"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert int(done.stdout) < 10 * side**2 + 40e6

    def test_pictures_are_decoded_at_once_only_while_they_fit(self):
        gate, sizes, inside, most = load._Gate(), [30, 60, 100, 40, 200, 10] * 5, [], []

        def decode(pixels):
            with gate.room(pixels, 100):
                inside.append(pixels)
                most.append(sum(inside))
                time.sleep(0.001)
                assert sum(inside) <= 100 or inside == [pixels]
                inside.remove(pixels)

        with ThreadPool(8) as pool:
            pool.map(decode, sizes)
        assert len(most) == len(sizes)
        assert max(total for total in most if total <= 100) > 60  # some were decoded at once
        assert not inside
        with pytest.raises(OSError, match="x"), gate.room(100, 100):
            raise OSError("x")
        with gate.room(100, 100):  # what failed has left
            pass

    def test_pillow_says_nothing_of_its_own(self, tmp_path):
        path = save(tmp_path / "a.tif", noise())
        content = path.read_bytes()
        at = content.index(struct.pack("<HHI", 277, 3, 1))  # samples per pixel
        path.write_bytes(content[: at + 8] + struct.pack("<H", 9999) + content[at + 10 :])
        script = (
            "import sys\nfrom tinycnn.preprocessing.load import load_img\n"
            "try:\n    load_img(sys.argv[1])\nexcept Exception as error:\n    print(error)"
        )
        done = subprocess.run([sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, text=True)
        assert done.stderr == ""
        assert done.stdout.startswith(str(path))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_fifo_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert "not a regular file" in self.refusal(tmp_path / "pipe.jpg")

    @pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no devices here")
    def test_devices(self):
        for device in ("/dev/zero", "/dev/null"):
            assert "not a regular file" in self.refusal(device)

    def test_symlink_loop(self, tmp_path):
        (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
        (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
        assert "symbolic links" in self.refusal(tmp_path / "a.jpg")

    @pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names must be Unicode here")
    def test_strange_names_are_escaped(self, tmp_path):
        for name in (b"bad\xff.jpg", b"two\nlines.jpg"):
            path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
            with open(path, "w") as file:
                file.write("text")
            self.refusal(path)
            save(tmp_path / "a.png", noise()).rename(path)
            assert load_img(path).size == (10, 12)

    def test_damaged_exif_does_not_cost_the_picture(self, tmp_path):
        for exif in (b"Exif\0\0", b"Exif\0\0no metadata", b"Exif\0\0II*\0\xff\xff\xff\xff"):
            path = save(tmp_path / "a.jpg", noise(), exif=exif)
            assert load_img(path).size == (10, 12)

    def test_a_wrong_tag_beside_the_orientation(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112], exif[0x011A] = 6, 72.0
        block = exif.tobytes().replace(b"\x01\x1a\0\x05", b"\x01\x01\0\x05")  # a height as a fraction: Pillow gives up
        assert block != exif.tobytes()
        path = save(tmp_path / "a.jpg", noise(), exif=block)
        assert load_img(path).size == (12, 10)

    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_damage_is_refused_or_read_but_never_worse(self, tmp_path_factory, data):
        suffix = data.draw(st.sampled_from(["jpg", "png", "gif", "bmp", "webp", "tif"]))
        path = tmp_path_factory.mktemp("damage") / f"a.{suffix}"
        content = bytearray(save(path, noise(16, 16)).read_bytes())
        for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
            content[position] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        try:
            assert img_to_array(load_img(path, target_size=(8, 8), max_pixels=10**6)).shape == (8, 8, 3)
        except DataError as error:
            assert str(error).isprintable()  # noqa: PT017

    def test_warnings_are_as_before_after_threads_have_shared_the_filter(self):
        before = list(warnings.filters)
        meet = threading.Barrier(4)

        def use():
            for _ in range(20):
                meet.wait()
                with pillow_warnings_hidden():
                    meet.wait()

        threads = [threading.Thread(target=use) for _ in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert warnings.filters == before
        with pillow_warnings_hidden():
            with pillow_warnings_hidden():
                hidden = list(warnings.filters)
            assert warnings.filters == hidden != before
        assert warnings.filters == before


class TestScan:
    def test_list_images(self, tree, tmp_path):
        (tree / "angelfish" / "notes.txt").touch()
        (tree / "angelfish" / ".hidden.png").touch()
        save(tree / ".cache" / "a.png", noise())
        save(tree / "b" / "B.JPEG", noise())
        names = [str(p.relative_to(tree)) for p in list_images(tree)]
        assert names == [f"angelfish/{i}.png" for i in range(7)] + ["b/B.JPEG"] + [
            f"clownfish/{i}.png" for i in range(5)
        ]
        assert list_images(str(tree / "b" / "B.JPEG")) == [tree / "b" / "B.JPEG"]
        with pytest.raises(DataError, match="no such"):
            list_images(tree / "none")
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="no image"):
            list_images(tmp_path / "empty")

    def test_hidden_and_nested_folders(self, tree):
        save(tree / ".thumbnails" / "a.png", noise())
        save(tree / "angelfish" / ".more" / "a.png", noise())
        save(tree / "angelfish" / "2024" / "a.png", noise())
        (tree / "angelfish" / "folder.png").mkdir()
        it = flow(tree)
        assert list(it.class_indices) == ["angelfish", "clownfish"]
        assert it.filenames[7] == os.path.join("angelfish", "2024", "a.png")
        assert it.n == 13

    def test_link_loops_end(self, tree):
        (tree / "angelfish" / "again").symlink_to(tree / "angelfish")
        (tree / "angelfish" / "up").symlink_to(tree)
        assert flow(tree).n == 12
        assert flow(tree, follow_links=True).n == 12 + 5  # clownfish behind "up" counts for angelfish too

    def test_a_link_to_itself_is_no_class_and_costs_no_run(self, tree):
        (tree / "circle").symlink_to("circle")
        (tree / "there").symlink_to("back")
        (tree / "back").symlink_to("there")
        (tree / "nowhere").symlink_to("gone")
        (tree / "clownfish" / "circle.png").symlink_to("circle.png")
        it = flow(tree)
        assert list(it.class_indices) == ["angelfish", "clownfish"]
        assert [os.path.basename(path) for path, _ in it.skipped] == ["circle.png"]
        assert it.n == 12

    def test_class_names_that_are_numbers(self, tmp_path, capsys):
        for name in ("1", "2", "10"):
            save(tmp_path / "a" / name / "a.png", noise())
        flow(tmp_path / "a")
        assert "1, 10, 2" in capsys.readouterr().err
        flow(tmp_path / "a", classes=["1", "2", "10"])
        (tmp_path / "a" / "10").rename(tmp_path / "a" / "3")
        flow(tmp_path / "a")
        assert capsys.readouterr().err == ""

    def test_errors_name_the_folder(self, tree, tmp_path):
        with pytest.raises(DataError, match="none: no such folder"):
            flow(tree / "none")
        with pytest.raises(DataError, match="not a folder"):
            flow(tree / "angelfish" / "0.png")
        with pytest.raises(DataError, match="angelfish: no class folders"):
            flow(tree / "angelfish")
        (tree / "ray\nfish").mkdir()
        with pytest.raises(DataError, match=r"ray\\nfish: class without an image"):
            flow(tree)
        (tree / "ray\nfish" / "a.png").write_text("text")
        with pytest.raises(DataError, match=r"ray\\nfish: class without a readable image; a.png: not an image"):
            flow(tree)
        with pytest.raises(DataError, match=r"needs 2 classes, found 3: angelfish, clownfish, ray\\nfish"):
            flow(tree, class_mode="binary")
        with pytest.raises(DataError, match="needs 2 classes, found 1: clownfish"):
            flow(tree, class_mode="binary", classes=["clownfish"])
        with pytest.raises(DataError, match="no folder for class shark"):
            flow(tree, classes=["clownfish", "shark"])

    def test_wrong_arguments(self, tree):
        for arguments in (
            {"class_mode": "multi"},
            {"batch_size": 0},
            {"batch_size": 2.5},
            {"target_size": (5000, 10)},
            {"seed": "a"},
            {"max_pixels": 0},
            {"subset": "test"},
            {"color_mode": "hsv"},
            {"interpolation": "cubic"},
        ):
            (name,) = arguments
            with pytest.raises(UsageError, match=name):
                flow(tree, **arguments)
        with pytest.raises(UsageError, match="validation_split"):
            flow(tree, subset="validation")
        with pytest.raises(UsageError, match="classes"):
            flow(tree, classes="clownfish")


class TestUnreadableFiles:
    @pytest.fixture
    def damaged(self, tree):
        (tree / "angelfish" / "1.png").write_bytes(b"")
        (tree / "clownfish" / "0.png").write_bytes((tree / "clownfish" / "0.png").read_bytes()[:200])
        (tree / "clownfish" / "9.jpg").symlink_to("nowhere")
        return tree

    def test_are_skipped_and_listed(self, damaged, capsys):
        it = flow(damaged, shuffle=False)
        captured = capsys.readouterr()
        assert captured.out == "Found 10 images belonging to 2 classes.\n"
        assert captured.err.startswith(
            "Skipped 3 unreadable files: angelfish/1.png: the file is empty; clownfish/0.png: "
        )
        assert captured.err.count("\n") == 1
        assert [os.path.relpath(path, damaged) for path, _ in it.skipped] == [
            os.path.join("angelfish", "1.png"),
            os.path.join("clownfish", "0.png"),
            os.path.join("clownfish", "9.jpg"),
        ]
        assert it.classes.tolist() == [0] * 6 + [1] * 4
        for i, path in enumerate(it.filepaths):
            x, y = it.batch(i // 4)
            assert np.array_equal(x[i % 4], img_to_array(load_img(path)))
            assert y[i % 4] == it.labels[i]

    def test_files_that_change_between_listing_and_reading(self, tree, monkeypatch):
        """One is gone, one is a folder, one a pipe, one is cut, one is another picture by then."""
        real = decode.decode_files
        folder = tree / "angelfish"

        def late(paths, *arguments):
            for name in ("0.png", "1.png", "2.png"):
                (folder / name).unlink()
            (folder / "1.png").mkdir()
            os.mkfifo(folder / "2.png")
            (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:50])
            save(folder / "4.png", noise(30, 40))
            return real(paths, *arguments)

        monkeypatch.setattr("tinycnn.preprocessing.iterators.decode_files", late)
        it = flow(tree)
        assert [os.path.basename(path) for path, _ in it.skipped] == ["0.png", "1.png", "2.png", "3.png"]
        assert it.n == 8

    def test_strict(self, damaged):
        with pytest.raises(DataError, match=r"1\.png: the file is empty \(the first of 3 unreadable of 13 files\)"):
            flow(damaged, strict=True)

    def test_too_large_for_the_cap(self, tree):
        save(tree / "clownfish" / "big.png", noise(50, 50))
        it = flow(tree, max_pixels=2000)
        assert [(os.path.basename(p), "max_pixels" in why) for p, why in it.skipped] == [("big.png", True)]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_fifo_in_a_folder(self, tree):
        os.mkfifo(tree / "clownfish" / "pipe.jpg")
        assert [why for _, why in flow(tree).skipped] == ["not a regular file"]


class TestCache:
    def test_a_temporary_file_holds_what_memory_would(self, tree, monkeypatch):
        in_memory = flow(tree, AUGMENTED)
        monkeypatch.setattr(decode, "MEMORY_LIMIT", 1000)
        mapped = flow(tree, AUGMENTED)
        assert isinstance(mapped._cache, np.memmap)
        assert not isinstance(in_memory._cache, np.memmap)
        for number in (0, 2, 7):
            assert np.array_equal(mapped.batch(number)[0], in_memory.batch(number)[0])

    def test_a_full_disk_is_told_at_once(self, tree, monkeypatch):
        monkeypatch.setattr(decode, "MEMORY_LIMIT", 1000)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(DataError, match=r"no room .* No space left .* TMPDIR"):
            flow(tree)

    def test_progress_bar(self, tree, capsys):
        flow(tree, progress=True)
        assert "12/12" in capsys.readouterr().err
        flow(tree)
        assert capsys.readouterr().err == ""

    def test_files_are_decoded_once(self, tree):
        it = flow(tree, shuffle=False)
        expected = it.batch(1)[0].copy()
        for path in it.filepaths:
            os.remove(path)
        assert np.array_equal(it.batch(1)[0], expected)


class TestBatches:
    def test_each_sample_once_per_pass_and_a_ragged_last_batch(self, tree):
        it = flow(tree, batch_size=5)
        assert len(it) == 3
        stored = {img_to_array(load_img(p)).tobytes(): label for p, label in zip(it.filepaths, it.labels, strict=True)}
        for in_pass in range(4):
            batches = [it.batch(3 * in_pass + i) for i in range(3)]
            assert [len(x) for x, _ in batches] == [5, 5, 2]
            seen = {image.tobytes(): label for x, y in batches for image, label in zip(x, y, strict=True)}
            assert seen == stored

    def test_a_batch_depends_on_its_number_alone(self, tree):
        fresh = {k: flow(tree, AUGMENTED, seed=3).batch(k)[0] for k in (0, 1, 5, 6)}
        it = flow(tree, AUGMENTED, seed=3)
        for k in (6, 0, 5, 5, 1):
            assert np.array_equal(it.batch(k)[0], fresh[k])
        results = {}
        threads = [threading.Thread(target=lambda k=k: results.update({k: it.batch(k)[0]})) for k in fresh]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert all(np.array_equal(results[k], fresh[k]) for k in fresh)

    def test_a_sample_is_changed_alike_in_any_place(self, tree):
        shuffled, in_order = (flow(tree, AUGMENTED, batch_size=12, shuffle=s) for s in (True, False))
        for number in range(3):
            order = shuffled._this_pass(number).order
            assert np.array_equal(shuffled.batch(number)[0], in_order.batch(number)[0][order])

    def test_passes_and_seeds_differ(self, tree):
        it = flow(tree, AUGMENTED, batch_size=12, shuffle=False)
        assert not np.array_equal(it.batch(0)[0], it.batch(1)[0])
        other = flow(tree, AUGMENTED, batch_size=12, shuffle=False, seed=1)
        assert not np.array_equal(it.batch(0)[0], other.batch(0)[0])
        plain = [flow(tree, batch_size=12, seed=s) for s in (0, 1, None)]
        assert not np.array_equal(plain[0].batch(0)[1], plain[0].batch(1)[1])
        assert not np.array_equal(plain[0].batch(0)[0], plain[1].batch(0)[0])
        assert np.array_equal(plain[0].batch(0)[0], plain[2].batch(0)[0])

    def test_no_global_random_state(self, tree):
        state = np.random.get_state()[1].copy()
        first = flow(tree, AUGMENTED).batch(2)[0]
        assert np.array_equal(np.random.get_state()[1], state)
        before = np.random.get_state()
        np.random.random(5)
        assert np.array_equal(flow(tree, AUGMENTED).batch(2)[0], first)
        np.random.set_state(before)

    def test_stream_and_sequence(self, tree):
        it, fresh = flow(tree, AUGMENTED), flow(tree, AUGMENTED)
        assert iter(it) is it
        for number in range(4):
            assert np.array_equal(next(it)[0], fresh.batch(number)[0])
        assert np.array_equal(it[2][0], fresh.batch(5)[0])
        assert np.array_equal(it[-1][0], fresh.batch(5)[0])
        it.reset()
        assert np.array_equal(next(it)[0], fresh.batch(6)[0])
        it.on_epoch_end()
        assert np.array_equal(it[0][0], fresh.batch(9)[0])
        it.reset()
        assert np.array_equal(next(it)[0], fresh.batch(9)[0])
        with pytest.raises(IndexError, match="batch 3 of a pass of 3"):
            it[3]
        with pytest.raises(UsageError, match="from 0"):
            it.batch(-1)

    def test_many_threads_get_each_batch_once(self, tree):
        it, fresh = flow(tree, AUGMENTED, class_mode=None), flow(tree, AUGMENTED, class_mode=None)
        seen = []
        threads = [threading.Thread(target=lambda: seen.extend(next(it).tobytes() for _ in range(8))) for _ in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert sorted(seen) == sorted(fresh.batch(k).tobytes() for k in range(32))

    def test_labels(self, tree):
        y = {
            mode: flow(tree, class_mode=mode, shuffle=False, batch_size=12).batch(0)[1] for mode in ("binary", "sparse")
        }
        assert y["binary"].tolist() == y["sparse"].tolist() == [0] * 7 + [1] * 5
        assert (y["binary"].dtype, y["sparse"].dtype) == (np.float32, np.int32)
        one_hot = flow(tree, class_mode="categorical", shuffle=False, batch_size=12).batch(0)[1]
        assert one_hot.dtype == np.float32
        assert np.array_equal(one_hot, np.eye(2)[y["sparse"]])
        x, same = flow(tree, AUGMENTED, class_mode="input").batch(0)
        assert np.array_equal(x, same)
        assert not np.shares_memory(x, same)
        assert flow(tree, class_mode=None).batch(0).shape == (4, 12, 10, 3)

    def test_subsets_share_no_file(self, tree):
        parts = {s: flow(tree, {"validation_split": 0.4}, subset=s) for s in ("training", "validation")}
        files = {s: set(it.filenames) for s, it in parts.items()}
        assert not files["training"] & files["validation"]
        assert sorted(files["training"] | files["validation"]) == sorted(flow(tree).filenames)
        assert np.bincount(parts["validation"].classes).tolist() == [2, 2]
        with pytest.raises(DataError, match="subset is empty"):
            flow(tree, {"validation_split": 0.05}, subset="validation")


class TestArrays:
    def test_flow(self):
        x, y = noise(9 * 6, 5, 3).reshape(9, 6, 5, 3), np.arange(9)
        it = ImageDataGenerator(rescale=1 / 255).flow(x, y, batch_size=4, seed=2)
        batches = [it.batch(i) for i in range(3)]
        assert sorted(np.concatenate([labels for _, labels in batches])) == list(range(9))
        for images, labels in batches:
            assert np.array_equal(images, x[labels].astype(np.float32) * np.float32(1 / 255))
        assert ImageDataGenerator().flow(x.astype(float)).batch(0).dtype == np.float32
        assert ImageDataGenerator(dtype="float64", zoom_range=0.1).flow(x).batch(0).dtype == np.float64

    def test_the_array_is_not_changed(self):
        x = noise(4 * 6, 6).reshape(4, 6, 6, 3).astype(np.float32)
        before = x.copy()
        generator = ImageDataGenerator(
            rescale=0.5, samplewise_std_normalization=True, brightness_range=(0.5, 1), channel_shift_range=9
        )
        generator.flow(x).batch(0)
        ImageDataGenerator(preprocessing_function=lambda image: np.multiply(image, 0, out=image)).flow(x).batch(0)
        assert np.array_equal(x, before)

    def test_subsets(self):
        x, y = noise(10 * 4, 4).reshape(10, 4, 4, 3), np.array([0, 1] * 5)
        generator = ImageDataGenerator(validation_split=0.25)
        validation, training = (generator.flow(x, y, subset=s, shuffle=False) for s in ("validation", "training"))
        assert (validation.n, training.n) == (2, 8)
        assert np.array_equal(np.concatenate([validation.batch(0)[0], training.batch(0)[0]]), x)
        with pytest.raises(DataError, match="shuffle"):
            generator.flow(x, np.sort(y), subset="training")
        assert generator.flow(x, np.sort(y), subset="training", ignore_class_split=True).n == 8

    def test_arrays_that_do_not_fit(self):
        for x, y in ((np.zeros((4, 4, 3)), None), (np.zeros((0, 4, 4, 3)), None), (np.zeros((2, 4, 4, 3)), [1])):
            with pytest.raises(DataError, match="images"):
                ImageDataGenerator().flow(x, y)


class TestGenerator:
    def test_shift_directions_are_those_of_their_names(self):
        sideways = ImageDataGenerator(width_shift_range=0.5).get_random_transform((10, 20, 3), seed=1)
        assert sideways["tx"] != 0
        assert sideways["ty"] == 0
        x = np.zeros((5, 9, 1), np.uint8)
        x[2, 4] = 100
        generator = ImageDataGenerator(fill_mode="constant")
        assert np.argwhere(generator.apply_transform(x, {"tx": 2})[..., 0]).tolist() == [[2, 2]]
        assert np.argwhere(generator.apply_transform(x, {"ty": -1})[..., 0]).tolist() == [[3, 4]]

    def test_images_turn_around_their_middle(self):
        for shape in ((5, 9, 3), (8, 6, 1)):
            x = noise(*shape)
            half_turn = ImageDataGenerator(fill_mode="constant").apply_transform(x, {"theta": 180.0})
            assert np.abs(half_turn - x[::-1, ::-1]).max() < 1e-3

    @settings(deadline=None, max_examples=100)
    @given(seed=st.integers(0, 2**40))
    def test_draws_keep_to_their_ranges(self, seed):
        generator = ImageDataGenerator(
            rotation_range=30,
            width_shift_range=0.1,
            height_shift_range=[2, 5],
            shear_range=7,
            zoom_range=(0.5, 0.9),
            channel_shift_range=20,
            brightness_range=(0.2, 0.4),
            horizontal_flip=True,
        )
        drawn = generator.get_random_transform((40, 50, 3), seed=seed)
        assert abs(drawn["theta"]) <= 30
        assert abs(drawn["tx"]) <= 5
        assert drawn["ty"] in (-5, -2, 2, 5)
        assert abs(drawn["shear"]) <= 7
        assert 0.5 <= min(drawn["zx"], drawn["zy"]) <= max(drawn["zx"], drawn["zy"]) <= 0.9
        assert abs(drawn["channel_shift_intensity"]) <= 20
        assert 0.2 <= drawn["brightness"] <= 0.4
        assert isinstance(drawn["flip_horizontal"], bool)
        assert drawn["flip_vertical"] is False
        assert drawn == generator.get_random_transform((40, 50, 3), seed=seed)

    def test_draws_fill_their_ranges(self):
        generator = ImageDataGenerator(rotation_range=30, zoom_range=0.2, horizontal_flip=True)
        drawn = [generator.get_random_transform((8, 8, 3), seed=s) for s in range(500)]
        for name, low, high in (("theta", -30, 30), ("zx", 0.8, 1.2), ("zy", 0.8, 1.2)):
            values = np.array([d[name] for d in drawn])
            assert values.min() < low + 0.05 * (high - low)
            assert values.max() > high - 0.05 * (high - low)
            assert abs(values.mean() - (low + high) / 2) < 0.05 * (high - low)
        assert abs(np.corrcoef([d["zx"] for d in drawn], [d["zy"] for d in drawn])[0, 1]) < 0.15
        assert 200 < sum(d["flip_horizontal"] for d in drawn) < 300

    def test_unseeded_draws_go_on(self):
        generator = ImageDataGenerator(rotation_range=30)
        drawn = [generator.get_random_transform((8, 8, 3))["theta"] for _ in range(3)]
        assert len(set(drawn)) == 3
        again = ImageDataGenerator(rotation_range=30)
        assert drawn == [again.get_random_transform((8, 8, 3))["theta"] for _ in range(3)]
        x = noise(8, 8)
        assert not np.array_equal(generator.random_transform(x), generator.random_transform(x))
        assert np.array_equal(generator.random_transform(x, seed=4), again.random_transform(x, seed=4))

    def test_preprocessing_function_sees_the_changed_image_before_rescale(self):
        seen = []

        def note(x):
            seen.append((x.shape, x.dtype, x.max()))
            return x + 1

        x = np.full((3, 4, 4, 3), 100, np.uint8)
        y = ImageDataGenerator(preprocessing_function=note, rescale=0.5, zoom_range=0.1).flow(x).batch(0)
        assert seen == [((4, 4, 3), np.float32, 100.0)] * 3
        assert np.all(y == 50.5)

    def test_samplewise(self):
        x = noise(4 * 8, 8).reshape(4, 8, 8, 3)
        y = ImageDataGenerator(samplewise_std_normalization=True, rescale=1 / 255).flow(x).batch(0)
        assert np.abs(y.mean(axis=(1, 2, 3))).max() < 1e-5
        assert np.abs(y.std(axis=(1, 2, 3)) - 1).max() < 1e-4

    @pytest.mark.parametrize(
        "arguments",
        [
            {"featurewise_center": True},
            {"zca_whitening": True},
            {"rescaling": 1 / 255},
            {"interpolation_order": 3},
            {"fill_mode": "mirror"},
            {"zoom_range": 1.0},
            {"zoom_range": (0.5, 1, 2)},
            {"rotation_range": "20"},
            {"rotation_range": float("nan")},
            {"width_shift_range": [0.1, "a"]},
            {"width_shift_range": -3},
            {"dtype": "uint8"},
            {"brightness_range": 0.5},
            {"rescale": float("inf")},
            {"rescale": True},
            {"validation_split": 1.0},
            {"data_format": "channels_first"},
        ],
        ids=str,
    )
    def test_wrong_arguments(self, arguments):
        (name,) = arguments
        with pytest.raises(UsageError, match=name):
            ImageDataGenerator(**arguments)

    def test_arguments_of_keras_that_change_nothing(self):
        ImageDataGenerator(featurewise_center=False, zca_whitening=False, interpolation_order=1, rescale=0)


class TestPreprocessing:
    def test_loads_what_the_folder_yields(self, tree):
        for options in ({}, {"color_mode": "grayscale", "interpolation": "bilinear", "keep_aspect_ratio": True}):
            it = flow(tree, {"rescale": 1 / 255}, target_size=(9, 8), shuffle=False, batch_size=12, **options)
            x, _ = it.batch(0)
            travelled = Preprocessing.from_dict(json.loads(json.dumps(it.preprocessing.to_dict())))
            assert travelled == it.preprocessing
            for path, expected in zip(it.filepaths, x, strict=True):
                loaded = travelled.load(path)
                assert loaded.dtype == np.float32
                assert np.array_equal(loaded, expected)

    @pytest.mark.parametrize("apply_exif", [True, False])
    def test_orientation_is_treated_as_in_the_folder(self, tree, apply_exif):
        exif = Image.Exif()
        exif[0x0112] = 3
        path = save(tree / "clownfish" / "turned.png", noise(), exif=exif)
        it = flow(tree, apply_exif=apply_exif, shuffle=False, batch_size=13)
        loaded = it.preprocessing.load(path)
        assert np.array_equal(loaded, it.batch(0)[0][12])
        assert np.array_equal(loaded, noise()[::-1, ::-1] if apply_exif else noise())

    def test_augmentation_is_no_part_of_it(self, tree):
        assert flow(tree, AUGMENTED).preprocessing == flow(tree, {"rescale": 1 / 255}).preprocessing

    def test_code_cannot_travel(self, tree):
        assert flow(tree, {"preprocessing_function": np.sqrt}).preprocessing is None
        assert flow(tree, {"samplewise_center": True}).preprocessing is None

    @pytest.mark.parametrize(
        "change",
        [
            {"target_size": [0, 64]},
            {"target_size": [64, 4097]},
            {"target_size": [64]},
            {"target_size": [64.0, 64]},
            {"target_size": [True, 64]},
            {"target_size": "64"},
            {"color_mode": "cmyk"},
            {"color_mode": ["rgb"]},
            {"interpolation": None},
            {"keep_aspect_ratio": 1},
            {"apply_exif": "yes"},
            {"rescale": "1/255"},
            {"rescale": 10**400},
            {"rescale": float("nan")},
            {"unknown": 1},
        ],
        ids=str,
    )
    def test_from_dict_refuses(self, change):
        settings = Preprocessing((64, 64), rescale=1 / 255).to_dict()
        assert Preprocessing.from_dict(settings).image_shape == (64, 64, 3)
        (name,) = change
        with pytest.raises(DataError, match=name):
            Preprocessing.from_dict(settings | change)
        settings.pop("apply_exif")
        for wrong in (settings, [], None, "rgb"):
            with pytest.raises(DataError, match="apply_exif"):
                Preprocessing.from_dict(wrong)

    def test_load_refuses_as_load_img_does(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.png: No such file"):
            Preprocessing((8, 8)).load(tmp_path / "none.png")


def test_import_is_light():
    code = "import sys, tinycnn.preprocessing.image; print({'numba', 'scipy', 'matplotlib', 'tqdm'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"
