"""Broken annotations and what cannot be in a picture: a fault with its place, or left out and told."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from decayfree.errors import InvalidInputError, MissingExtraError
from decayfree.study.data import load, loading
from decayfree.study.data.annotated import coins, nuclei, packaged
from decayfree.study.data.annotated.coco import write_coco
from decayfree.study.data.images import Images
from decayfree.study.run_settings import DataSpec
from support import annotated_files as files

SIZE = 8


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loading._load.cache_clear()


def loaded(name, root, task, *, n_train=3, n_test=2):
    return load(DataSpec(name, n_train, 0, n_test, image_size=SIZE), root, task=task)


def said(name, root, task, **counts):
    with pytest.raises(InvalidInputError) as caught:
        loaded(name, root, task, **counts)
    return str(caught.value)


def spoil_camvid(root, change):
    files.write_camvid(root)
    path = root / "trainannot" / "0001TP_006690.png"
    change(path)
    return said("camvid", root, "segmentation", n_train=4), path


def test_a_mask_of_another_size_than_its_picture_is_a_fault(tmp_path):
    text, path = spoil_camvid(tmp_path, lambda path: files.write_mask(path, np.zeros((16, 12), np.uint8)))
    assert text == f"1 masks have other sizes than their pictures:\n  {path}: 12 × 16, expected 16 × 12"


def test_a_value_of_no_class_is_a_fault(tmp_path):
    text, path = spoil_camvid(
        tmp_path, lambda path: files.write_mask(path, np.full(files.SIZE, 12, np.uint8))
    )
    assert text == f"1 masks have pixels of no class:\n  {path}: 12 is the value of no class"


def test_a_color_of_no_class_is_a_fault(tmp_path):
    files.write_colored_camvid(tmp_path)
    path = tmp_path / "train_labels" / "0001TP_006690_L.png"
    Image.new("RGB", files.SIZE[::-1], (1, 2, 3)).save(path)
    assert said("camvid", tmp_path, "segmentation", n_train=4) == (
        f"1 masks have pixels of no class:\n  {path}: (1, 2, 3) is the value of no class"
    )


def test_masks_that_are_not_there_are_all_named(tmp_path):
    files.write_camvid(tmp_path)
    masks = sorted((tmp_path / "trainannot").glob("*.png"))
    for path in masks[:2]:
        path.unlink()
    text = said("camvid", tmp_path, "segmentation")
    assert text.splitlines() == ["2 masks are not there:", *(f"  {path}" for path in masks[:2])]


def test_masks_that_hold_no_numbers_are_faults(tmp_path):
    deep = Image.fromarray(np.zeros(files.SIZE, dtype=np.uint16))
    text, path = spoil_camvid(tmp_path, deep.save)
    assert f"{path}: its pixels are I;16, expected L or P" in text


@pytest.mark.parametrize("content", [b"", b"a text"])
def test_pictures_without_pixels_are_named(content, tmp_path):
    files.write_points(tmp_path)
    (tmp_path / "train" / "1.png").write_bytes(content)
    text = said("points", tmp_path, "counting")
    assert text.startswith(f"1 files cannot be read as images:\n  {tmp_path / 'train' / '1.png'}: ")


def test_a_picture_that_would_be_huge_is_not_read(tmp_path):
    files.write_points(tmp_path)
    Image.new("1", (9000, 9000)).save(tmp_path / "train" / "1.png")
    assert "9,000 × 9,000 pixels, expected at most 67,108,864" in said("points", tmp_path, "counting")


def spoil_table(tmp_path, text):
    files.write_colored_camvid(tmp_path)
    files.write_text(tmp_path / "class_dict.csv", text)
    return said("camvid", tmp_path, "segmentation")


def test_a_table_of_colors_names_its_lines(tmp_path):
    text = spoil_table(tmp_path, "name,r,g,b\nSky,1,2,3\nRoad,1,2\nTree,1,2,300\nCar,1,2,3\n")
    assert "line 3: expected a name and three numbers from 0 to 255, got 'Road,1,2'" in text
    assert "line 4" in text
    assert "line 5: the color 1, 2, 3 has a class already" in text
    assert spoil_table(tmp_path, "name,r,g,b\n").endswith("class_dict.csv has no class")


XML = {
    "<annotation><object>": "no element found|mismatched|unclosed",
    "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>": "defines entities, which no annotation does",
    files.voc_xml([("unicorn", (1, 1, 2, 2), 0)]): "object 1 is of no class of PASCAL VOC: 'unicorn'",
    files.voc_xml([("dog", (1, 1, 2, "x"), 0)]): r"object 1: expected xmin, .* got \['1', '1', '2', 'x'\]",
    files.voc_xml([("dog", (1, 1, 2, "nan"), 0)]): "object 1: expected xmin",
    files.voc_xml([("dog", (1, 1, 2, 2), "yes")]): "object 1: difficult: expected 0 or 1, got 'yes'",
    files.voc_xml([("dog", (1, 1, 2, 2), 0)], size=(16, 13)): "16 × 12, expected 16 × 13",
}


@pytest.mark.parametrize(("xml", "fault"), XML.items())
def test_a_broken_annotation_of_voc_is_a_fault(xml, fault, tmp_path):
    files.write_voc(tmp_path)
    files.write_text(tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / "2007_000001.xml", xml)
    text = said("voc", tmp_path, "detection", n_train=4)
    assert "2007_000001" in text
    assert re.search(fault, text)


def test_names_that_come_twice_and_files_that_do_not_come_are_faults(tmp_path):
    files.write_voc(tmp_path)
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    (folder / "Annotations" / "2007_000001.xml").unlink()
    assert re.search(
        r"1 annotations .*\n.*2007_000001.xml cannot be read", said("voc", tmp_path, "detection")
    )
    files.write_text(folder / "ImageSets" / "Main" / "train.txt", "2007_000000\n2007_000000\n")
    assert re.search(r"1 names come twice in .*train.txt:\n  2007_000000", said("voc", tmp_path, "detection"))


def test_boxes_without_area_are_left_out_and_told(tmp_path):
    files.write_voc(tmp_path)
    boxes = [(3, 3, 2, 9), (9, 9, 5, 12), (17, 1, 20, 4), (-3, 1, 8, 12), (1, 1, 16, 12)]
    xml = files.voc_xml([("cat", box, 0) for box in boxes])
    for path in (tmp_path / "VOCdevkit" / "VOC2012" / "Annotations").glob("2007_000*"):
        files.write_text(path, xml)
    data = loaded("voc", tmp_path, "detection", n_train=4)
    assert data.train.labels.counts.tolist() == [2] * 4
    assert data.train.labels.split()[0].tolist() == [[0, 0, 4, 8, 7, 0], [0, 0, 8, 8, 7, 0]]
    assert data.notes == (
        "train: 4 of 20 boxes reach out of the image and are cut at its border.",
        "train: 12 of 20 boxes have no area in the image and are left out.",
    )


def changed(table, place, **values):
    content = files.coco_json()
    content[table][place] = {**content[table][place], **values}
    return content


WITHOUT = {name: rows for name, rows in files.coco_json().items() if name != "categories"}
COCO = [
    ([], "tables are not in .*images: expected a list"),
    (WITHOUT, "1 tables are not in .*categories: expected a list"),
    (changed("images", 1, id=100), "images: id 100 comes twice"),
    (changed("images", 1, file_name="000000000000.jpg"), "images: file_name 000000000000.jpg comes twice"),
    (changed("images", 1, width="16"), r"images\[1\]: without a proper width"),
    (changed("categories", 1, id=18), "categories: id 18 comes twice"),
    (changed("annotations", 2, id=7), "annotations: id 7 comes twice"),
    (changed("annotations", 2, image_id=5), "annotations: id 9: there is no image 5"),
    (changed("annotations", 2, category_id=5), "annotations: id 9: there is no category 5"),
    (changed("annotations", 2, bbox=[1, 2, 3]), r"id 9: bbox: expected x, y, width, height, got \[1, 2, 3\]"),
    (changed("annotations", 2, bbox=[1, 2, 3, float("nan")]), "id 9: bbox"),
    (changed("annotations", 2, bbox=[1, 2, 3, True]), "id 9: bbox"),
    (changed("annotations", 2, bbox=[1, 2, 3, 10**400]), "id 9: bbox"),
    (changed("annotations", 2, iscrowd="1"), "id 9: iscrowd: expected 0 or 1, got '1'"),
    (changed("categories", 1, name="cat"), "categories of val2017 are not those of train2017"),
    (changed("images", 1, height=13), "16 × 12, expected 16 × 13"),
    (changed("images", 1, file_name="absent.jpg"), "absent.jpg: FileNotFoundError"),
]


@pytest.mark.parametrize(("content", "fault"), COCO)
def test_what_is_wrong_with_cocos_json_is_told(content, fault, tmp_path):
    files.write_coco_set(tmp_path, train2017=content)
    assert re.search(fault, said("coco", tmp_path, "detection"), re.DOTALL)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\0"])
def test_what_is_no_json_is_a_fault_of_the_file(text, tmp_path):
    files.write_coco_set(tmp_path)
    files.write_text(tmp_path / "annotations" / "instances_val2017.json", text)
    assert re.match(r".*instances_val2017.json is no JSON: ", said("coco", tmp_path, "detection"))


def test_all_faults_of_a_table_are_told_at_once(tmp_path):
    content = changed("annotations", 2, bbox=[])
    content["annotations"][0]["bbox"] = "none"
    content["annotations"][1]["id"] = "8"
    files.write_coco_set(tmp_path, train2017=content)
    assert re.match(r"3 faults in .*instances_train2017.json:", said("coco", tmp_path, "detection"))


def test_boxes_of_coco_without_area_are_left_out_as_its_tools_do(tmp_path):
    content = changed("annotations", 0, bbox=[1, 2, 0, 4])
    content["annotations"][2]["bbox"] = [5, 5, -2, 3]
    files.write_coco_set(tmp_path, train2017=content)
    data = loaded("coco", tmp_path, "detection")
    assert sorted(data.train.labels.counts.tolist()) == [0, 1, 1]
    assert data.notes[:2] == (
        "train: 2 of 4 boxes have no area in the image and are left out.",
        "train: 1 of 3 images have no boxes: images of nothing.",
    )


YOLO = {
    "0 0.5 0.5 0.5": "expected a class and four numbers, got '0 0.5 0.5 0.5'",
    "0 0.1 0.1 0.2 0.2 0.3 0.3": "expected a class and four numbers",
    "dog 0.5 0.5 0.5 0.5": "expected a class and four numbers",
    "2 0.5 0.5 0.5 0.5": "expected a class from 0 to 1, got 2",
    "-1 0.5 0.5 0.5 0.5": "expected a class from 0 to 1, got -1",
    "0.5 0.5 0.5 0.5 0.5": "expected a class from 0 to 1, got 0.5",
    "0 50 60 10 10": "expected shares of the image from 0 to 1, got 50 60 10 10",
    "0 0.5 0.5 -0.5 0.5": "expected shares of the image from 0 to 1",
    "0 nan 0.5 0.5 0.5": "expected four numbers, got nan",
}


@pytest.mark.parametrize(("line", "fault"), YOLO.items())
def test_a_line_that_is_no_box_of_yolo_is_named(line, fault, tmp_path):
    files.write_yolo(tmp_path, f"1 0.5 0.5 0.25 0.5\n{line}\n")
    text = said("yolo", tmp_path, "detection")
    assert text.startswith("2 lines are no boxes of YOLO:")
    assert f"{tmp_path / 'labels' / 'train' / '0.txt'}:2: {fault}" in text


def test_boxes_of_yolo_that_come_twice_or_reach_out_are_told(tmp_path):
    files.write_yolo(tmp_path, "0 0 0.5 0.5 0.5\n0 0 0.5 0.5 0.5\n\n1 0.5 0.5 0 0.5\n")
    data = loaded("yolo", tmp_path, "detection")
    assert f"{tmp_path / 'images' / 'train'}: 2 boxes come twice and are taken once." in data.notes
    assert "train: 2 of 4 boxes reach out of the image and are cut at its border." in data.notes
    assert "train: 2 of 4 boxes have no area in the image and are left out." in data.notes
    rows = [rows.tolist() for rows in data.train.labels.split() if len(rows)]
    assert rows == [[[0, 2, 2, 6, 0, 0]]] * 2


@pytest.mark.parametrize("text", ["names: 3", "names: {1: a}", "names: []", "names: [1, 2]", "[", "- a"])
def test_names_that_are_none_are_a_fault(text, tmp_path):
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    files.write_yolo(tmp_path)
    files.write_text(tmp_path / "data.yaml", text)
    assert re.search(r"data.yaml(: names: expected a list| is no YAML)", said("yolo", tmp_path, "detection"))


def test_a_yolo_folder_without_names_or_parts_says_what_it_takes(tmp_path):
    files.write_yolo(tmp_path)
    files.write_text(tmp_path / "classes.txt", "\n")
    assert said("yolo", tmp_path, "detection").endswith("classes.txt names no class")
    (tmp_path / "classes.txt").unlink()
    assert "The classes of a YOLO folder was not found" in said("yolo", tmp_path, "detection")
    files.write_text(tmp_path / "classes.txt", "a\nb\n")
    (tmp_path / "labels" / "val").rename(tmp_path / "labels" / "elsewhere")
    assert "The test part of a YOLO folder was not found" in said("yolo", tmp_path, "detection")


POINTS = {
    '{"x": 1}': r"0.json: expected a list of \[x, y\], got something else at place 0",
    "[[1, 2], [3]]": "0.json: expected .* at place 1",
    "[[1, NaN]]": "0.json: expected .* at place 0",
    "[[1, true]]": "0.json: expected .* at place 0",
    "[[1, 2]": "0.json is no JSON",
}


@pytest.mark.parametrize(("text", "fault"), POINTS.items())
def test_what_is_no_list_of_points_is_a_fault(text, fault, tmp_path):
    files.write_points(tmp_path)
    files.write_text(tmp_path / "train" / "0.json", text)
    text = said("points", tmp_path, "counting")
    assert text.startswith("1 files of points cannot be read:")
    assert re.search(fault, text)


def test_lines_of_points_are_named(tmp_path):
    files.write_points(tmp_path)
    files.write_text(tmp_path / "test" / "0.csv", "x,y\n1,2\n3;4\n")
    assert f"{tmp_path / 'test' / '0.csv'}:3: expected x,y, got '3;4'" in said("points", tmp_path, "counting")


def test_an_image_that_nobody_counted_on_is_a_fault(tmp_path):
    files.write_points(tmp_path)
    (tmp_path / "train" / "0.json").unlink()
    files.write_text(tmp_path / "train" / "1.csv", "1,2\n")
    text = said("points", tmp_path, "counting")
    assert "0.png: expected 0.json or 0.csv beside it, found neither" in text
    assert "1.png: expected 1.json or 1.csv beside it, found both" in text


@pytest.mark.parametrize("name", ["points", "shanghaitech", "ucf-qnrf"])
def test_points_outside_are_left_out_and_told(name, tmp_path):
    write = {
        "points": files.write_points,
        "shanghaitech": files.write_shanghaitech,
        "ucf-qnrf": files.write_ucf_qnrf,
    }
    write[name](tmp_path, heads=[[1, 2], [16.5, 3], [4, -1], [16, 12]])
    data = loaded(name, tmp_path, "counting")
    assert data.train.labels.counts.tolist() == [2, 2, 2]
    assert data.notes == (
        "train: 6 of 12 points are outside of the image and are left out.",
        "test: 4 of 8 points are outside of the image and are left out.",
    )


def test_matlab_files_that_are_none_or_hold_something_else_are_named(tmp_path):
    from scipy.io import savemat

    files.write_ucf_qnrf(tmp_path)
    folder = tmp_path / "UCF-QNRF_ECCV18" / "Train"
    (folder / "img_0001_ann.mat").write_bytes(b"a text")
    savemat(folder / "img_0002_ann.mat", {"annPoints": np.ones((4, 3))})
    savemat(folder / "img_0003_ann.mat", {"points": np.ones((4, 2))})
    text = said("ucf-qnrf", tmp_path, "counting")
    assert text.startswith("3 files of points cannot be read:")
    assert "img_0002_ann.mat: expected points (n, 2), got (4, 3)" in text
    assert "img_0003_ann.mat: KeyError: 'annPoints'" in text


def test_a_matlab_file_that_unpacks_to_too_much_is_not_read(tmp_path):
    from scipy.io import savemat

    files.write_ucf_qnrf(tmp_path)
    path = tmp_path / "UCF-QNRF_ECCV18" / "Train" / "img_0001_ann.mat"
    savemat(path, {"annPoints": np.zeros((2_000_000, 2))}, do_compression=True)
    assert path.stat().st_size < 100_000
    assert "unpacks to more than 16,777,216 bytes" in said("ucf-qnrf", tmp_path, "counting")


def test_a_part_without_images_is_a_fault(tmp_path):
    files.write_points(tmp_path)
    for path in (tmp_path / "train").glob("*.png"):
        path.unlink()
    assert said("points", tmp_path, "counting").startswith(f"{tmp_path / 'train'} has no image (")


def test_two_images_with_one_annotation_are_a_fault(tmp_path):
    files.write_yolo(tmp_path)
    files.write_pictures([tmp_path / "images" / "train" / "1.png"])
    folder = tmp_path / "images" / "train"
    assert said("yolo", tmp_path, "detection") == f"1 names have several images in {folder}:\n  1"


def test_an_image_size_of_nothing_is_a_fault(tmp_path):
    with pytest.raises(InvalidInputError, match="points: image_size: expected at least 1 pixel, got 0"):
        load(DataSpec("points"), tmp_path, task="counting")


def test_other_pictures_than_those_of_packages_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"without img2d.tif, mask2d.tif"):
        nuclei.read(str(tmp_path), size=SIZE, task="counting")
    for name in ("img2d.tif", "mask2d.tif", "coins.png"):
        Image.new("L", (5, 6)).save(tmp_path / name)
    with pytest.raises(
        InvalidInputError, match=r"expected one channel of 512×512 numbers, got a picture of 6×5"
    ):
        nuclei.read(str(tmp_path), size=SIZE, task="counting")
    Image.new("L", (384, 303)).save(tmp_path / "coins.png")
    with pytest.raises(InvalidInputError, match=r"coins.png: expected a picture of 24 coins, found"):
        coins.read(str(tmp_path), size=SIZE, task="counting")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"stardist, which is not installed: pip install 'decayfree\[real\]'"
    ):
        nuclei.read(None, size=SIZE, task="counting")


def test_only_images_with_boxes_are_written_as_coco(tmp_path):
    with pytest.raises(InvalidInputError, match="write_coco: expected images with boxes"):
        write_coco(
            Images(torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1)),
            tmp_path,
            name="x",
            class_names=(),
        )


def test_faults_are_told_up_to_twenty(tmp_path):
    content = files.coco_json(40)
    for row in content["annotations"]:
        row["bbox"] = []
    files.write_coco_set(tmp_path, train2017=json.loads(json.dumps(content)))
    text = said("coco", tmp_path, "detection")
    assert text.startswith("78 faults in ")
    assert text.endswith("and 58 more")
