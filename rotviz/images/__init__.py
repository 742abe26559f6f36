"""Images for models that read them: drawn ones that need no download, and folders.

    source -> images (uint8, RGB) and their classes -> the checkpoint's own preprocessing (rotviz.models.loading)

A source is a registered set with an optional split ("shapes:test") or the path of a folder. A new set is one new file in this folder. What a result
was measured on is said in words by `ImageSet.words`: two agreements may stand in one column only if their words are equal.
"""

from rotviz.images.source import IMAGES, ImageSet, calibration_images, evaluation_images, parse_images

__all__ = ["IMAGES", "ImageSet", "calibration_images", "evaluation_images", "parse_images"]
