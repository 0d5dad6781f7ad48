"""The public names of image preparation, as in Keras's `preprocessing.image`."""

from .generator import ImageDataGenerator
from .iterators import DirectoryIterator, Iterator, NumpyArrayIterator
from .load import MAX_PIXELS, array_to_img, img_to_array, load_img
from .scan import IMAGE_SUFFIXES, list_images
from .settings import Preprocessing

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "DirectoryIterator",
    "ImageDataGenerator",
    "Iterator",
    "NumpyArrayIterator",
    "Preprocessing",
    "array_to_img",
    "img_to_array",
    "list_images",
    "load_img",
]
