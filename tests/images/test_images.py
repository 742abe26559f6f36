"""Image sets: the same for the same seed, labelled, and refused in words."""

import numpy as np
import pytest
from PIL import Image

from rotviz.errors import BadImages, BadInput, UnknownName
from rotviz.images import IMAGES, calibration_images, evaluation_images, parse_images
from rotviz.images.shapes import CLASSES, SHAPES, draw_shapes


def test_the_first_images_are_the_same_however_many_are_drawn():
    few, many = (evaluation_images("shapes:test", n, 16) for n in (5, 300))
    assert all(np.array_equal(a, b) for a, b in zip(few.pixels, many.pixels))
    assert few.classes == many.classes[:5]
    assert set(many.classes) == set(CLASSES)
    assert few.pixels[0].shape == (16, 16, 3) and few.pixels[0].dtype == np.uint8
    assert "first 5 images of 16 x 16" in few.words and "version" in few.words


def test_splits_and_seeds_share_no_image():
    sets = [evaluation_images(f"shapes:{split}", 20, 16) for split in IMAGES["shapes"].splits]
    sets += [calibration_images("shapes:test", 20, 16, seed) for seed in (0, 1)]
    assert len({image.tobytes() for one in sets for image in one.pixels}) == 20 * len(sets)
    again = calibration_images("shapes:test", 20, 16, 1)
    assert all(np.array_equal(a, b) for a, b in zip(again.pixels, sets[-1].pixels))
    assert "by seed 1" in again.words


def test_a_shape_is_brighter_than_its_ground_and_where_its_formula_says():
    pixels, labels = draw_shapes(200, 32, (9,))
    middle = pixels[:, 14:18, 14:18].mean((1, 2, 3)) - pixels[:, :3].mean((1, 2, 3))
    filled = [SHAPES[CLASSES[label]](np.zeros(1), np.zeros(1))[0] for label in labels]
    assert np.median(middle[np.array(filled)]) > 60 > 30 > abs(np.median(middle[~np.array(filled)]))
    assert {CLASSES[label] for label, full in zip(labels, filled) if not full} == {"ring", "frame"}


def folder_of(path, names, size=(20, 12)):
    for i, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i, 0, 0)).save(path / name)
    return path


def test_a_folder_of_classes_goes_round_them(tmp_path):
    folder_of(tmp_path, ["cat/a.png", "cat/b.png", "cat/c.png", "dog/a.png"])
    found = evaluation_images(str(tmp_path), 3, 8)
    assert found.classes == ("cat", "dog", "cat") and found.pixels[0].shape == (12, 20, 3)
    assert evaluation_images(str(tmp_path), 0, 8).classes == ("cat", "dog", "cat", "cat")
    drawn = [calibration_images(str(tmp_path), 2, 8, seed).pixels for seed in (0, 0, 1, 2, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(drawn[0], drawn[1]))
    assert len({tuple(int(p[0, 0, 0]) for p in one) for one in drawn}) > 1


def test_a_flat_folder_has_no_classes(tmp_path):
    folder_of(tmp_path, ["a.png", "b.jpg"])
    (tmp_path / "notes.txt").write_text("not an image")
    found = evaluation_images(str(tmp_path), 2, 8)
    assert found.classes is None and found.words.endswith("first 2 images")


@pytest.mark.parametrize(("source", "words", "error"), [
    ("shaps:test", "did you mean 'shapes'", UnknownName), ("shapes:tst", "split of shapes", UnknownName),
    ("", "no folder of images", BadImages), ("./nowhere/at/all", "no folder of images", BadImages),
])
def test_what_is_no_source_is_refused(source, words, error):
    with pytest.raises(error, match=words):
        parse_images(source)


def test_bad_images_are_refused(tmp_path):
    with pytest.raises(BadImages, match="drawn without end"):
        evaluation_images("shapes:test", 0, 8)
    with pytest.raises(BadInput, match="at least one"):
        calibration_images("shapes:test", 0, 8, 0)
    with pytest.raises(BadImages, match="holds 0 images"):
        evaluation_images(str(tmp_path), 1, 8)
    folder_of(tmp_path, ["a.png"])
    (tmp_path / "b.png").write_bytes(b"no image at all")
    with pytest.raises(BadImages, match="cannot be read as an image"):
        evaluation_images(str(tmp_path), 2, 8)
    folder_of(tmp_path, ["cat/c.png"])
    with pytest.raises(BadImages, match="of its own and folders"):
        evaluation_images(str(tmp_path), 1, 8)
