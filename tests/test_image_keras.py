"""The same calls through Keras's own loader and augmentation: same files, same pixels, same batches."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from tinycnn.preprocessing import image as ours

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("scipy")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other packages deprecate while they load each other
    keras = pytest.importorskip("keras")
    from keras.src.legacy.preprocessing import image as theirs
    from keras.utils import array_to_img, img_to_array, load_img

pytestmark = [
    pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Your `PyDataset` class should call:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*mode.* parameter is deprecated:DeprecationWarning"),
]

FILL_MODES = ("nearest", "constant", "reflect", "wrap")
COLOR_MODES = ("rgb", "rgba", "grayscale")


def photo(height, width, channels=3, seed=0):
    """A smooth picture with some noise, float32 with whole values 0 to 255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(y / 5 + c) * np.cos(x / (4 + c)) for c in range(channels)], axis=-1)
    return np.clip(127 + 90 * waves + rng.normal(0, 20, waves.shape), 0, 255).round().astype(np.float32)


@pytest.fixture(autouse=True)
def keras_draws_from_the_global_state():
    """Keras's generator seeds and uses NumPy's global random state; other tests want it as it was."""
    state = np.random.get_state()
    yield
    np.random.set_state(state)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three classes of files in several formats, modes and sizes, some in folders of their own."""
    root = tmp_path_factory.mktemp("photos")
    modes = {"RGB": "png", "L": "jpg", "RGBA": "png", "P": "png", "LA": "png", "1": "bmp", "CMYK": "jpg"}
    for label, name in enumerate(("angelfish", "clownfish", "Zebra fish")):
        for i in range(11):
            mode, suffix = list(modes.items())[i % len(modes)]
            img = Image.fromarray(photo(20 + 7 * i, 50 - 3 * i, 4, seed=100 * label + i).astype(np.uint8))
            folder = root / name / ("more" if i % 5 == 4 else "")
            folder.mkdir(parents=True, exist_ok=True)
            (img if mode == "RGBA" else img.convert("RGB").convert(mode)).save(folder / f"photo{i}.{suffix}")
    return root


def both(tree, *, generator=None, **arguments):
    """The iterators of both libraries over a folder."""
    generator = generator or {}
    mine = ours.ImageDataGenerator(**generator).flow_from_directory(tree, **arguments)
    keras_iterator = theirs.ImageDataGenerator(**generator).flow_from_directory(str(tree), **arguments)
    return mine, keras_iterator


class TestAugmentation:
    """One set of drawn parameters through both libraries; Keras interpolates in float64."""

    @pytest.mark.parametrize("fill_mode", FILL_MODES)
    @pytest.mark.parametrize("size", [32, 33])
    def test_same_parameters_same_image(self, fill_mode, size):
        ranges = {
            "rotation_range": 40,
            "shear_range": 20.0,
            "zoom_range": (0.6, 1.5),
            "width_shift_range": 0.3,
            "height_shift_range": 0.2,
            "horizontal_flip": True,
            "vertical_flip": True,
            "fill_mode": fill_mode,
            "cval": 30.0,
        }
        mine, keras_generator = ours.ImageDataGenerator(**ranges), theirs.ImageDataGenerator(**ranges)
        x = photo(size, size)
        for seed in range(40):
            parameters = mine.get_random_transform(x.shape, seed=seed)
            expected = keras_generator.apply_transform(x, dict(parameters))
            assert np.abs(mine.apply_transform(x, parameters) - expected).max() < 0.01

    @pytest.mark.parametrize(
        "parameters",
        [
            {"theta": 90.0},
            {"theta": -17.3},
            {"tx": 3.0},
            {"ty": -2.5},
            {"shear": 10.0},
            {"zx": 0.7},
            {"zy": 1.6},
            {"theta": 10.0, "flip_horizontal": True},
            {"tx": 4.2, "flip_vertical": True},
            {},
        ],
        ids=str,
    )
    def test_each_parameter_alone(self, parameters):
        x = photo(31, 31)
        expected = theirs.ImageDataGenerator().apply_transform(x, dict(parameters))
        assert np.abs(ours.ImageDataGenerator().apply_transform(x, parameters) - expected).max() < 0.01

    def test_images_that_are_not_square_differ_only_in_the_middle(self):
        # Keras turns around (column, row) = (height / 2, width / 2); moving its result by the difference gives ours.
        h, w, theta = 24, 40, np.deg2rad(25)
        x = photo(h, w)
        turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
        offset = np.array([(w - h) / 2, (h - w) / 2])
        tx, ty = np.linalg.inv(turn) @ (offset - turn @ offset)
        expected = theirs.apply_affine_transform(
            x, theta=25, tx=tx, ty=ty, row_axis=0, col_axis=1, channel_axis=2, fill_mode="nearest"
        )
        assert np.abs(ours.ImageDataGenerator().apply_transform(x, {"theta": 25.0}) - expected).max() < 0.01

    @pytest.mark.parametrize("factor", [0.0, 0.37, 1.0, 1.8])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_brightness(self, factor, channels):
        x = photo(20, 20, channels) + np.float32(0.4) * (photo(20, 20, channels) < 250)
        mine = ours.ImageDataGenerator().apply_transform(x, {"brightness": factor})
        expected = theirs.apply_brightness_shift(x, factor, False)
        assert np.abs(mine - expected).max() < 1e-3

    @pytest.mark.parametrize(("low", "high"), [(-40, 200), (10, 400), (-10, 300)])
    def test_brightness_of_values_outside_the_range(self, low, high):
        x = photo(16, 16) / 255 * (high - low) + low
        mine = ours.ImageDataGenerator().apply_transform(x, {"brightness": 0.7})
        assert np.abs(mine - theirs.apply_brightness_shift(x, 0.7, False)).max() <= 1 + (high - low) / 255

    @pytest.mark.parametrize("intensity", [-60.0, 12.5, 300.0])
    def test_channel_shift(self, intensity):
        x = photo(16, 16)
        parameters = {"channel_shift_intensity": intensity, "flip_horizontal": True, "theta": 8.0}
        expected = theirs.ImageDataGenerator().apply_transform(x, dict(parameters))
        assert np.abs(ours.ImageDataGenerator().apply_transform(x, parameters) - expected).max() < 0.01

    def test_standardize(self):
        arguments = {
            "rescale": 1 / 255,
            "samplewise_center": True,
            "samplewise_std_normalization": True,
            "preprocessing_function": np.sqrt,
        }
        x = photo(16, 16)
        expected = theirs.ImageDataGenerator(**arguments).standardize(x.copy())
        assert np.abs(ours.ImageDataGenerator(**arguments).standardize(x.copy()) - expected).max() < 1e-6

    def test_a_batch_equals_its_samples_through_keras(self):
        ranges = {
            "rotation_range": 20,
            "zoom_range": 0.3,
            "horizontal_flip": True,
            "channel_shift_range": 30.0,
            "brightness_range": (0.6, 1.4),
            "rescale": 1 / 255,
        }
        mine, keras_generator = ours.ImageDataGenerator(**ranges), theirs.ImageDataGenerator(**ranges)
        x = np.stack([photo(24, 24, seed=s) for s in range(6)]).astype(np.uint8)
        uniforms = np.random.default_rng(5).random((6, 10))
        batch = mine.prepare(x, mine.changes(uniforms, x.shape[1:]))
        for image, u, result in zip(x, uniforms, batch, strict=True):
            parameters = mine._parameters(u, image.shape)
            expected = keras_generator.apply_transform(image.astype(np.float32), parameters)
            expected = keras_generator.standardize(expected)
            assert np.abs(result - expected).max() * 255 <= 1.01  # brightness cuts to whole values: one may differ


class TestLoading:
    @pytest.mark.parametrize("color_mode", COLOR_MODES)
    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
    @pytest.mark.parametrize("keep_aspect_ratio", [False, True])
    def test_pixels(self, tree, color_mode, interpolation, keep_aspect_ratio):
        arguments = {"color_mode": color_mode, "target_size": (31, 24), "interpolation": interpolation}
        arguments["keep_aspect_ratio"] = keep_aspect_ratio
        for path in ours.list_images(tree):
            mine = ours.img_to_array(ours.load_img(path, **arguments))
            assert np.array_equal(mine, img_to_array(load_img(path, **arguments))), path

    def test_own_size(self, tree):
        for path in ours.list_images(tree):
            assert np.array_equal(ours.img_to_array(ours.load_img(path)), img_to_array(load_img(path)))

    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize("scale", [True, False])
    def test_array_to_img(self, channels, scale):
        x = photo(9, 12, channels)
        mine, expected = ours.array_to_img(x, scale=scale), array_to_img(x, scale=scale)
        assert mine.mode == expected.mode
        assert np.abs(np.asarray(mine, int) - np.asarray(expected, int)).max() <= 1

    def test_stored_orientation_is_kept_on_demand(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(photo(20, 30).astype(np.uint8)).save(tmp_path / "a.jpg", exif=exif)
        stored = img_to_array(load_img(tmp_path / "a.jpg"))
        assert np.array_equal(ours.img_to_array(ours.load_img(tmp_path / "a.jpg", apply_exif=False)), stored)
        assert ours.img_to_array(ours.load_img(tmp_path / "a.jpg")).shape == (30, 20, 3)


class TestFlowFromDirectory:
    @pytest.mark.parametrize("color_mode", COLOR_MODES)
    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
    @pytest.mark.parametrize("class_mode", ["categorical", "sparse", "input", None])
    def test_unshuffled_batches_are_equal(self, tree, color_mode, interpolation, class_mode):
        arguments = {"color_mode": color_mode, "interpolation": interpolation, "class_mode": class_mode}
        mine, expected = both(
            tree, generator={"rescale": 1 / 255}, target_size=(20, 17), batch_size=7, shuffle=False, **arguments
        )
        assert len(mine) == len(expected) == 5
        for _ in range(len(mine)):
            a, b = next(mine), next(expected)
            a, b = (a, b) if isinstance(a, tuple) else ((a,), (b,))
            assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))

    def test_names_and_attributes(self, tree, capsys):
        mine, expected = both(tree, shuffle=False)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == lines[1] == "Found 33 images belonging to 3 classes."
        assert mine.class_indices == expected.class_indices
        assert list(mine.class_indices) == list(expected.class_indices)
        for name in ("filenames", "filepaths", "n", "samples", "batch_size", "num_classes", "class_mode"):
            assert getattr(mine, name) == getattr(expected, name), name
        for name in ("image_shape", "target_size", "shuffle"):
            assert getattr(mine, name) == getattr(expected, name), name
        assert np.array_equal(mine.classes, expected.classes)
        assert np.array_equal(mine.labels, expected.labels)

    @pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
    @pytest.mark.parametrize("subset", ["training", "validation"])
    def test_subsets_are_the_same_files(self, tree, share, subset):
        mine, expected = both(tree, generator={"validation_split": share}, subset=subset, shuffle=False)
        assert mine.filenames == expected.filenames
        assert np.array_equal(mine.classes, expected.classes)

    def test_classes_in_a_given_order(self, tree):
        mine, expected = both(
            tree, classes=["clownfish", "angelfish"], class_mode="binary", target_size=(8, 8), shuffle=False
        )
        assert mine.class_indices == expected.class_indices
        (x, y), (x_expected, y_expected) = mine.batch(0), next(expected)
        assert np.array_equal(x, x_expected)
        assert np.array_equal(y, y_expected)
        assert y.dtype == y_expected.dtype == np.float32

    def test_array_batches(self):
        x, y = np.stack([photo(8, 8, seed=s) for s in range(10)]), np.arange(10)
        arguments = {"batch_size": 4, "shuffle": False}
        mine = ours.ImageDataGenerator(rescale=0.5).flow(x, y, **arguments)
        expected = theirs.ImageDataGenerator(rescale=0.5).flow(x, y, **arguments)
        for _ in range(3):
            a, b = next(mine), next(expected)
            assert np.array_equal(a[0], b[0])
            assert np.array_equal(a[1], b[1])


@pytest.mark.parametrize(
    ("range_name", "value"),
    [("width_shift_range", 0.25), ("width_shift_range", 3), ("width_shift_range", [1, 4]), ("width_shift_range", 5.0)],
)
def test_shifts_come_from_the_same_values(range_name, value):
    shape = (40, 40, 3)
    keras_generator = theirs.ImageDataGenerator(**{range_name: value})
    expected = [keras_generator.get_random_transform(shape, seed=s)["ty"] for s in range(400)]  # the axes are crossed
    mine = ours.ImageDataGenerator(**{range_name: value})
    drawn = [mine.get_random_transform(shape, seed=s)["tx"] for s in range(400)]
    if isinstance(value, float):
        assert np.allclose([min(drawn), max(drawn)], [min(expected), max(expected)], atol=0.5)
    else:
        assert set(drawn) == set(expected)
