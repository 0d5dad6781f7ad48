"""The paper's program, step by step in its order, on tinycnn; beside each of its mistakes, what is done instead.

    python examples/paper_program.py                 on drawn fish
    python examples/paper_program.py PHOTOS          on a folder with `train` and `test`, one folder per class in each
    python examples/paper_program.py PHOTOS ONE.jpg  ... and ask about this photo at the end

The paper: Z. E. Tapia Mejia, "Convolutional Neural Networks - Image Classification", Universidad Veracruzana.
"""

# Figure 3: the libraries. Keras's own import lines, with tinycnn in place of keras and keras_preprocessing.
import sys
from pathlib import Path

import numpy as np

from tinycnn.datasets import fish
from tinycnn.layers import Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential
from tinycnn.preprocessing import image
from tinycnn.preprocessing.image import ImageDataGenerator

EPOCHS = 30


def main(folder: Path | None = None, photo: Path | None = None, epochs: int = EPOCHS) -> float:
    """Train, then say what one photo shows. Returns the accuracy on the test images."""
    # Figure 4 connects a drive with 10,000 photos of clownfish and angelfish. They were not published:
    # without a folder of your own, as many are drawn.
    folder = folder or fish.make()

    # Figure 5: two rounds of convolution and pooling.
    model = Sequential()
    model.add(Conv2D(32, (3, 3), input_shape=(64, 64, 3), activation="relu"))
    model.add(MaxPooling2D(pool_size=(2, 2)))
    model.add(Conv2D(32, (3, 3), activation="relu"))
    model.add(MaxPooling2D(pool_size=(2, 2)))

    # Figure 6: from feature maps to one probability.
    model.add(Flatten())
    model.add(Dense(128, activation="relu"))
    model.add(Dense(1, activation="sigmoid"))
    model.summary()

    # Figure 7: augmentation. The paper's shear_range=0.2 reads like a fifth, but the unit is degrees (since Keras
    # 2.1.3; radians before): it moves no pixel of a 64-pixel image by more than 0.22. 11.5 degrees are 0.2 radians.
    train_data = ImageDataGenerator(rescale=1.0 / 255, shear_range=11.5, zoom_range=0.2, horizontal_flip=True)
    test_data = ImageDataGenerator(rescale=1.0 / 255)

    # Figure 8: the images in batches of 32.
    training_set = train_data.flow_from_directory(
        folder / "train", target_size=(64, 64), batch_size=32, class_mode="binary"
    )
    test_set = test_data.flow_from_directory(folder / "test", target_size=(64, 64), batch_size=32, class_mode="binary")

    # Figure 9: training. The paper divides by 40 where its batches hold 32: 200 steps see 6,400 of the 8,000 images
    # in an epoch, 50 steps test on 1,600 of 2,000. Without these arguments every image is seen once.
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    history = model.fit(training_set, epochs=epochs, validation_data=test_set)
    accuracy = history.history["val_accuracy"][-1]
    print(f"Test accuracy: {accuracy:.4f}")

    # Figure 10: what does one photo show?
    photo = photo or Path(test_set.filepaths[0])
    test_image = image.load_img(photo, target_size=(64, 64))
    test_image = image.img_to_array(test_image)
    unscaled = np.expand_dims(test_image, axis=0)
    # The paper predicts from values up to 255, though it trained on values up to 1. The 1/255 belongs here too.
    probability = float(model.predict(unscaled / 255)[0][0])
    # The paper asks whether the result equals 1 exactly. It is a probability: hardly ever 1, unless, as above, the
    # missing 1/255 drives the sigmoid to its end. The threshold is 0.5.
    # And which fish is 1? Classes are numbered in the order of their folders' names: class_indices says it, where
    # the paper's program asks for it, drops the answer, and takes the order for granted.
    names = {number: name for name, number in training_set.class_indices.items()}
    print(f"{photo.name}: {names[int(probability > 0.5)]} (probability of {names[1]}: {probability:.4f})")
    print(f"as the paper's program would have computed it, without 1/255: {float(model.predict(unscaled)[0][0]):.4f}")
    return accuracy


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:3]))
