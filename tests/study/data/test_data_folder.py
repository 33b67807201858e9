"""Folders of images: listed and decoded as torchvision does it, once, with every fault named."""

import errno
import os
import shutil
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.study.data import decoding, image_folder, load, loading
from decayfree.study.run_settings import DataSpec
from support.available import import_or_skip
from support.image_files import color_images, write_folder, write_image

pytest.importorskip("PIL", reason="Pillow is not installed")
SPEC = DataSpec(name="image-folder", n_train=6, n_validation=3, n_test=4, image_size=8)
CLASSES = {"bee": 5, "ant": 4, "Cat": 3}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache folder is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loading._load.cache_clear()
    return tmp_path / "cache" / "decayfree" / "image-folder"


@pytest.fixture
def root(tmp_path):
    write_folder(tmp_path / "tree", "train", CLASSES)
    write_folder(tmp_path / "tree", "val", {"ant": 2, "bee": 2, "Cat": 2}, seed=50)
    return tmp_path / "tree"


def names(part):
    return ["/".join(Path(path).parts[-3:]) for path in part.paths]


def as_bytes(images):
    return {image.numpy().tobytes() for image in images.pixels}


def test_classes_are_sorted_and_so_are_their_images(root):
    tree = image_folder.find(str(root))
    assert tree.classes == ("Cat", "ant", "bee")
    assert tree.train.labels == [0] * 3 + [1] * 4 + [2] * 5
    assert names(tree.train)[:4] == [f"train/Cat/00{i}.png" for i in range(3)] + ["train/ant/000.png"]
    assert names(tree.test)[0] == "val/Cat/000.png"


def test_images_in_folders_of_a_class_are_found_in_order_and_other_files_passed_over(root):
    for name in ("z", "b", "M", "k", "a", "C"):
        write_image(root / "train" / "ant" / name / "000.PNG", color_images(1, height=8, width=8)[0])
    (root / "train" / "ant" / "boxes.txt").write_text("1 2 3 4")
    (root / "train" / "notes.txt").write_text("not a class")
    tree = image_folder.find(str(root))
    deep = [Path(path).parent.name for path in tree.train.paths if path.endswith("PNG")]
    assert deep == ["C", "M", "a", "b", "k", "z"]
    assert len(tree.train) == 12 + 6
    assert tree.train.labels.count(1) == 4 + 6


def test_test_goes_before_val_where_it_has_classes(root):
    (root / "test" / "images").mkdir(parents=True)
    assert "val" in names(image_folder.find(str(root)).test)[0]
    write_folder(root, "test", {"bee": 1}, seed=90)
    shutil.rmtree(root / "test" / "images")
    tree = image_folder.find(str(root))
    assert names(tree.test) == ["test/bee/000.png"]
    assert tree.test.labels == [2]


def tiny_imagenet(root):
    write_folder(root, "train", {"n01/images": 3, "n02/images": 3})
    for index, pixels in enumerate(color_images(4, height=8, width=8, seed=70)):
        write_image(root / "val" / "images" / f"val_{index}.png", pixels)
    lines = [f"val_{index}.png\tn0{1 + index % 2}\t0\t0\t7\t7" for index in range(4)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    write_image(root / "test" / "images" / "test_0.png", pixels)
    return root


def test_tiny_imagenet_is_read_as_it_is_published(tmp_path):
    root = tiny_imagenet(tmp_path / "tiny")
    tree = image_folder.find(str(root))
    assert tree.classes == ("n01", "n02")
    assert tree.train.labels == [0, 0, 0, 1, 1, 1]
    assert names(tree.test) == [f"val/images/val_{index}.png" for index in range(4)]
    assert tree.test.labels == [0, 1, 0, 1]
    data = load(DataSpec(name="image-folder", n_train=6, n_test=4, image_size=8), str(root))
    expected = {image.transpose(1, 2, 0).tobytes() for image in color_images(4, height=8, width=8, seed=70)}
    assert {image.permute(1, 2, 0).numpy().tobytes() for image in data.test.pixels} == expected


def test_annotations_of_no_class_name_their_lines(tmp_path):
    root = tiny_imagenet(tmp_path / "tiny")
    with (root / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_4.png\tn03\t0\t0\t7\t7\nval_5.png\n")
    with pytest.raises(
        InvalidInputError, match=r"val_annotations\.txt names no class of train in the lines 5, 6"
    ):
        image_folder.find(str(root))


def test_no_folder_given_says_what_is_needed():
    with pytest.raises(
        InvalidInputError, match=r"an image folder has no place of its own\. It takes a folder train"
    ):
        load(SPEC)


def test_not_found_says_where_it_looked(tmp_path, root):
    with pytest.raises(
        InvalidInputError, match=rf"not found. Looked in\n  {tmp_path / 'train'}: no such folder\n"
    ):
        image_folder.find(str(tmp_path))
    shutil.rmtree(root / "val")
    (root / "test").mkdir()
    message = (
        rf"test part .* not found. Looked in\n  {root / 'test'}: without folders of classes\n  "
        rf"{root / 'val'}: no such"
    )
    with pytest.raises(InvalidInputError, match=message):
        image_folder.find(str(root))


def test_classes_that_train_has_not_and_classes_without_images_are_errors(root):
    (root / "val" / "dog").mkdir()
    with pytest.raises(InvalidInputError, match=f"{root / 'val'} has classes that train has not: dog"):
        image_folder.find(str(root))
    for name in ("dog", "eel"):
        (root / "train" / name).mkdir()
    with pytest.raises(
        InvalidInputError, match=rf"{root / 'train'} has classes without an image .*: dog, eel"
    ):
        image_folder.find(str(root))


def test_the_three_parts_share_no_image_and_keep_their_labels(root):
    data = load(SPEC, str(root))
    assert data.n_classes == 3
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == [6, 3, 4]
    contents = [as_bytes(part) for part in parts]
    assert [len(content) for content in contents] == [6, 3, 4]
    assert not contents[0] & contents[1]
    assert not (contents[0] | contents[1]) & contents[2]
    originals = {}
    for part, offset in ((CLASSES, 0), ({"ant": 2, "bee": 2, "Cat": 2}, 50)):
        for seed, (name, n_images) in enumerate(part.items()):
            for image in color_images(n_images, height=8, width=8, seed=offset + seed):
                originals[image.tobytes()] = ["Cat", "ant", "bee"].index(name)
    for part in parts:
        for image, label in zip(part.pixels, part.labels, strict=True):
            assert originals[image.contiguous().numpy().tobytes()] == int(label)


def test_classes_are_mixed_and_a_subset_is_a_part_of_a_larger_one(root):
    few = load(SPEC, str(root))
    many = load(DataSpec(name="image-folder", n_train=12, n_test=6, image_size=8), str(root))
    assert many.train.labels.tolist() != sorted(many.train.labels.tolist())
    assert torch.equal(many.train.pixels[:9], torch.cat([few.train.pixels, few.validation.pixels]))
    assert torch.equal(many.test.pixels[:4], few.test.pixels)


def test_more_images_than_there_are_is_an_error(root):
    with pytest.raises(
        InvalidInputError, match=r"image-folder has 12 training and 6 test images here, .*n_test=7"
    ):
        load(DataSpec(name="image-folder", n_train=12, n_test=7, image_size=8), str(root))


def test_inputs_are_standardized_by_the_training_images(root):
    data = load(SPEC, str(root))
    inputs = data.to_input(data.train.pixels)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert inputs.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert inputs.std(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-6)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("size", [(8, 8), (13, 29), (30, 11), (8, 31), (5, 9), (64, 63)])
def test_pixels_are_those_of_torchvisions_resize_and_center_crop(size, suffix, tmp_path):
    import_or_skip("torchvision")
    transforms, folder = (
        import_or_skip("torchvision.transforms"),
        import_or_skip("torchvision.datasets.folder"),
    )
    path = tmp_path / f"image.{suffix}"
    write_image(path, color_images(1, height=size[0], width=size[1])[0])
    resized = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])(
        folder.pil_loader(str(path))
    )
    (decoded,) = decoding.decode([[str(path)]], size=8)
    assert np.array_equal(decoded.pixels[0].permute(1, 2, 0).numpy(), np.asarray(resized))


def test_torchvision_lists_the_same_images_with_the_same_labels(root):
    import_or_skip("torchvision")
    folder = import_or_skip("torchvision.datasets").ImageFolder
    write_image(root / "train" / "ant" / "a" / "z.JPEG", color_images(1)[0])
    write_image(root / "train" / "ant" / "B" / "z.bmp", color_images(1)[0])
    tree = image_folder.find(str(root))
    for part, name in ((tree.train, "train"), (tree.test, "val")):
        theirs = folder(str(root / name))
        assert list(zip(part.paths, part.labels, strict=True)) == theirs.samples
        assert list(tree.classes) == theirs.classes


def test_grey_images_become_three_equal_colors(tmp_path):
    write_image(tmp_path / "grey.png", color_images(1, height=8, width=8)[0, 0])
    (decoded,) = decoding.decode([[str(tmp_path / "grey.png")]], size=8)
    assert torch.equal(decoded.pixels[0, 0], torch.from_numpy(color_images(1, height=8, width=8)[0, 0]))
    assert torch.equal(decoded.pixels[0, 0], decoded.pixels[0, 2])


def test_counts_are_those_of_the_pixels(root):
    (decoded,) = decoding.decode([image_folder.find(str(root)).train.paths], size=8)
    assert torch.equal(decoded.counts, loading._counts(decoded.pixels))


def test_files_that_are_no_images_are_named_all_at_once(root, cache):
    (root / "train" / "ant" / "000.png").write_text("a text")
    damaged = root / "train" / "bee" / "001.png"
    damaged.write_bytes(damaged.read_bytes()[:-60])
    (root / "val" / "Cat" / "001.png").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"3 files cannot be read as images:") as caught:
        load(DataSpec(name="image-folder", n_train=12, n_test=6, image_size=8), str(root))
    for path in ("train/ant/000.png", "train/bee/001.png", "val/Cat/001.png"):
        assert f"{root / path}: " in str(caught.value)
    assert not list(cache.glob("*.partial"))
    empty = 3 * 256 * 8  # the counts of no image: the validation part
    assert [path.stat().st_size for path in cache.glob("*.pixels")] == [empty]


def test_of_many_faults_twenty_are_shown(tmp_path):
    with pytest.raises(InvalidInputError, match=r"23 files cannot") as caught:
        decoding.decode([[str(tmp_path / f"{index}.png") for index in range(23)]], size=8)
    assert len(str(caught.value).splitlines()) == 22
    assert str(caught.value).endswith("  and 3 more")


def test_images_are_decoded_once(root, cache, monkeypatch):
    first = load(SPEC, str(root))
    assert len(list(cache.glob("*.pixels"))) == 3
    loading._load.cache_clear()
    monkeypatch.setattr(decoding, "_image", None)
    again = load(SPEC, str(root))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).pixels, getattr(again, part).pixels)
    assert (first.mean, first.std) == (again.mean, again.std)


def test_what_is_written_to_the_pixels_does_not_reach_the_file(root):
    first = load(SPEC, str(root))
    kept = first.train.pixels.clone()
    first.train.pixels.fill_(0)
    loading._load.cache_clear()
    assert torch.equal(load(SPEC, str(root)).train.pixels, kept)


def test_an_image_that_was_changed_is_decoded_anew(tmp_path):
    path = tmp_path / "image.bmp"  # of the same length whatever is in it
    before, after = color_images(2, height=8, width=8)
    for index, image in enumerate((before, after)):
        write_image(path, image)
        os.utime(path, (index, index))
        (decoded,) = decoding.decode([[str(path)]], size=8)
        assert torch.equal(decoded.pixels[0], torch.from_numpy(image))


def test_sizes_do_not_displace_each_other(root, cache):
    for size in (8, 5):
        data = load(DataSpec(name="image-folder", n_train=6, n_test=4, image_size=size), str(root))
        assert data.train.pixels.shape[2:] == (size, size)
    assert len(list(cache.glob("*.pixels"))) == 6


def test_a_file_of_pixels_that_was_cut_off_is_written_anew(root, cache):
    before = load(SPEC, str(root))
    kept = before.train.pixels.clone()
    del before
    loading._load.cache_clear()
    for file in cache.glob("*.pixels"):
        file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(load(SPEC, str(root)).train.pixels, kept)


def test_batches_from_the_mapped_file_are_those_of_memory(root):
    data = load(SPEC, str(root))
    in_memory = loading.Dataset(
        train=loading.Images(data.train.pixels.clone(), data.train.labels),
        validation=data.validation,
        test=data.test,
        n_classes=3,
        mean=data.mean,
        std=data.std,
    )
    spec, chosen = DataSpec(flip=True, crop_padding=1), torch.tensor([5, 0, 3])
    assert torch.equal(
        data.batch(chosen, spec, seed=0, step=0), in_memory.batch(chosen, spec, seed=0, step=0)
    )


def test_runs_that_start_together_decode_once(root, cache, monkeypatch):
    n_decoded = []
    image = decoding._image
    monkeypatch.setattr(decoding, "_image", lambda *args: n_decoded.append(1) or image(*args))
    paths = image_folder.find(str(root)).train.paths
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: decoding.decode([paths], size=8)[0].pixels, range(4)))
    assert len(n_decoded) == len(paths)
    assert all(torch.equal(pixels, results[0]) for pixels in results)
    assert not list(cache.glob("*.partial"))


def test_a_full_disk_is_said_before_anything_is_decoded(root, cache, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(decoding.shutil, "disk_usage", lambda folder: usage(free=1000))
    message = (
        rf"the pixels of 6 images, 7\.3e-06 GB, could not be written to {cache}: "
        r"there is not enough room\. Make room"
    )
    with pytest.raises(InvalidInputError, match=message):
        load(SPEC, str(root))


def test_a_disk_that_fills_up_while_writing_leaves_nothing(root, cache, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(decoding.os, "fsync", full)
    with pytest.raises(InvalidInputError, match=r"could not be written to .*No space left on device"):
        load(SPEC, str(root))
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_a_cache_folder_that_cannot_be_made_is_an_error(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InvalidInputError, match=r"could not be written to .* Set XDG_CACHE_HOME to a folder"):
        load(SPEC, str(root))


def test_without_pillow_the_error_names_the_extra(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"Pillow.*pip install 'decayfree\[study\]'"):
        load(SPEC, str(root))
