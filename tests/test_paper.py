"""The paper's program runs, as printed and as the example that mends it; real photographs go all the way through."""

import csv
import importlib.util
import io
from pathlib import Path

import pytest

from tinycnn import backend, predict, train, use_backend

ROOT = Path(__file__).resolve().parent.parent

# Figures 3 to 10: the calls as the paper prints them. Changed are the import lines, the paths, and the four numbers
# of images and epochs. What served its notebook alone (TensorFlow, the drive, showing pictures) is left out.
LISTING = """
from tinycnn.models import Sequential
from tinycnn.layers import Conv2D, MaxPooling2D, Flatten, Dense
from tinycnn.preprocessing.image import ImageDataGenerator
import numpy as np
from tinycnn.preprocessing import image

model = Sequential()
model.add(Conv2D(32, (3, 3), input_shape = (64, 64, 3), activation = 'relu'))
model.add(MaxPooling2D(pool_size = (2, 2)))
model.add(Conv2D(32, (3, 3), activation = 'relu'))
model.add(MaxPooling2D(pool_size = (2, 2)))
model.add(Flatten())
model.add(Dense(128, activation = 'relu'))
model.add(Dense(1, activation = 'sigmoid'))

train_data = ImageDataGenerator(rescale = 1./255, shear_range = 0.2, zoom_range = 0.2, horizontal_flip = True)
test_data = ImageDataGenerator(rescale = 1./255)

training_set = train_data.flow_from_directory('PHOTOS/train', target_size = (64, 64), batch_size = 32,
                                              class_mode = 'binary')
test_set = test_data.flow_from_directory('PHOTOS/test', target_size = (64, 64), batch_size = 32,
                                         class_mode = 'binary')

model.compile(optimizer = 'adam', loss = 'binary_crossentropy', metrics = ['accuracy'])
model.fit(training_set, steps_per_epoch = int(IMAGES/40), epochs = EPOCHS, validation_data = test_set,
          validation_steps = int(TESTS/40))

test_image = image.load_img('PHOTOS/test/stripes/00.png', target_size = (64, 64))
test_image = image.img_to_array(test_image)
test_image = np.expand_dims(test_image, axis = 0)
result = model.predict(test_image)
training_set.class_indices
if result[0][0] == 1:
    prediction = 'Pez Payaso'
else:
    prediction = 'Pez Angel'
"""


def listing(photos: Path, images: int, tests: int, epochs: int) -> str:
    text = LISTING.replace("PHOTOS", photos.as_posix())
    return text.replace("IMAGES", str(images)).replace("TESTS", str(tests)).replace("EPOCHS", str(epochs))


@pytest.mark.parametrize(("name", "steps"), [("numpy", 1), ("numba", 3)])
def test_the_listing_runs(name, steps, small_photos, capsys):
    use_backend(name)
    names: dict = {}
    exec(listing(small_photos, images=40 * steps + 10, tests=40, epochs=2), names)
    model = names["model"]
    assert model.count_params() == 813_217
    assert model.optimizer.iterations == 2 * steps
    assert names["training_set"].class_indices == {"plain": 0, "stripes": 1}
    assert names["test_image"].shape == (1, 64, 64, 3)
    assert names["result"].shape == (1, 1)
    assert 0 <= names["result"][0][0] <= 1
    assert names["prediction"] == ("Pez Payaso" if names["result"][0][0] == 1 else "Pez Angel")
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["Found 24 images belonging to 2 classes.", "Found 12 images belonging to 2 classes."]
    epochs = [line for line in printed if line.startswith("Epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    assert all(f" {figure}: " in line for line in epochs for figure in ("loss", "accuracy", "val_loss", "val_accuracy"))


def test_the_listing_gives_the_same_each_time(small_photos):
    use_backend("numba")
    results = []
    for _ in range(2):
        names: dict = {}
        exec(listing(small_photos, images=40, tests=40, epochs=1), names)
        results.append(names["model"].get_weights())
    assert all((a == b).all() for a, b in zip(*results, strict=True))


def example():
    spec = importlib.util.spec_from_file_location("paper_program", ROOT / "examples" / "paper_program.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("photo", [None, "train/stripes/03.png"])
def test_the_example_runs(photo, small_photos, capsys):
    use_backend("numba")
    accuracy = example().main(small_photos, None if photo is None else small_photos / photo, epochs=1)
    assert 0 <= accuracy <= 1
    *_, tested, asked, as_printed = capsys.readouterr().out.splitlines()
    assert tested == f"Test accuracy: {accuracy:.4f}"
    name, answer = asked.split(": ", 1)
    assert name == Path(photo or "00.png").name
    kind, probability = answer.removesuffix(")").split(" (probability of stripes: ")
    assert kind == ("stripes" if float(probability) > 0.5 else "plain")
    assert 0 <= float(as_printed.rsplit(": ", 1)[1]) <= 1


@pytest.fixture
def same_backend():
    """The commands set the backend for the whole process; the next test gets its own back."""
    before = backend._current
    yield
    backend._current = before


@pytest.mark.slow
def test_real_photographs(same_backend, real_images, tmp_path, capsys):
    """83 photographs are few: enough to get most of the 36 others right (32 and 33 were seen), not all."""
    photos, out = real_images / "fish_photos", tmp_path / "run"
    assert train.main([str(photos), "--epochs", "40", "--batch-size", "16", "--strict", "--out", str(out)]) == 0
    capsys.readouterr()
    assert predict.main([str(out), str(photos / "test"), "--format", "csv", "--strict"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 36
    right = sum(Path(row["path"]).parent.name == row["class"] for row in rows)
    assert right >= 28, f"{right} of 36"
