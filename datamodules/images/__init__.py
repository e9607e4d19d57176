"""Users' photographs, read with all metadata and written back with it."""

from datamodules.images.fitting import TooLargeImageError, check_size, lost_in
from datamodules.images.formats import ImageFormat, UnreadableImageError, format_of
from datamodules.images.masks import find_mask
from datamodules.images.photo import Photo
from datamodules.images.reading import read_photo, read_size
from datamodules.images.shots import find_shots
from datamodules.images.tagging import tagged
from datamodules.images.writing import encode_photo

__all__ = [
    "ImageFormat",
    "Photo",
    "TooLargeImageError",
    "UnreadableImageError",
    "check_size",
    "encode_photo",
    "find_mask",
    "find_shots",
    "format_of",
    "lost_in",
    "read_photo",
    "read_size",
    "tagged",
]
