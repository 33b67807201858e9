"""Small sets of annotated images in the formats in which the large ones are published.

Nothing of the package is used here. Each writer returns what it has written, part by part.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from support.image_files import color_images, write_image

SIZE = (12, 16)
"""Height and width of the pictures."""
PALETTE = [value for number in range(256) for value in (number, 255 - number, 7 * number % 256)]


def write_pictures(paths: list[Path], *, seed: int = 0) -> None:
    """Random colors of `SIZE`, in the format of the suffix."""
    for path, pixels in zip(
        paths, color_images(len(paths), height=SIZE[0], width=SIZE[1], seed=seed), strict=True
    ):
        write_image(path, pixels)


def write_mask(path: Path, values: np.ndarray, *, has_palette: bool = False) -> None:
    """(height, width), uint8, as a PNG file of numbers, with colors for them or without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if has_palette:
        image = image.convert("P")
        image.putdata(values.flatten().tolist())
        image.putpalette(PALETTE)
    image.save(path)


def masks_of(values: list[int], n_masks: int, *, seed: int = 0) -> list[np.ndarray]:
    """Random ones of these values, of `SIZE`."""
    generator = np.random.default_rng(seed)
    return [generator.choice(np.array(values, dtype=np.uint8), size=SIZE) for _ in range(n_masks)]


def write_voc(root: Path, *, n_train: int = 4, n_test: int = 2) -> dict[str, list]:
    """``VOCdevkit/VOC2012`` with masks of all 21 classes and 255, and the same images with boxes."""
    folder = root / "VOCdevkit" / "VOC2012"
    written = {}
    for seed, (part, n_images) in enumerate((("train", n_train), ("val", n_test))):
        names = [f"2007_{seed}{number:05}" for number in range(n_images)]
        masks = masks_of([*range(21), 255], n_images, seed=seed)
        write_pictures([folder / "JPEGImages" / f"{name}.jpg" for name in names], seed=seed)
        for name, mask in zip(names, masks, strict=True):
            write_mask(folder / "SegmentationClass" / f"{name}.png", mask, has_palette=True)
            write_text(folder / "Annotations" / f"{name}.xml", voc_xml(VOC_OBJECTS))
        for sets in ("Segmentation", "Main"):
            write_text(folder / "ImageSets" / sets / f"{part}.txt", "\n".join(names) + "\n")
        written[part] = masks
    return written


VOC_OBJECTS = [("dog", (1, 1, 8, 6), 0), ("person", (5, 3, 16, 12), 1)]


def voc_xml(objects: list, *, size: tuple[int, int] = (SIZE[1], SIZE[0])) -> str:
    """An annotation as VOC has it: corners are counted from 1 and belong to the box."""
    things = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>"
        f"<difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2), difficult in objects
    )
    return (
        f"<annotation><folder>VOC2012</folder><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>3</depth></size><segmented>0</segmented>{things}</annotation>"
    )


def write_cityscapes(root: Path) -> dict[str, list]:
    """Two cities to train on and one to test with; masks of the ids 0 to 33."""
    written = {"train": [], "val": []}
    for seed, (part, city) in enumerate((("train", "aachen"), ("train", "ulm"), ("val", "lindau"))):
        names = [f"{city}_00000{number}_000019" for number in range(2)]
        images = root / "leftImg8bit" / part / city
        write_pictures([images / f"{name}_leftImg8bit.png" for name in names], seed=seed)
        for name, mask in zip(names, masks_of(list(range(34)), 2, seed=seed), strict=True):
            write_mask(root / "gtFine" / part / city / f"{name}_gtFine_labelIds.png", mask)
            written[part].append(mask)
    return written


def write_camvid(root: Path) -> dict[str, list]:
    """As SegNet's tutorial has it."""
    written = {}
    for seed, (part, n_images) in enumerate((("train", 4), ("val", 1), ("test", 2))):
        names = [f"0001TP_00{6690 + 30 * number}.png" for number in range(n_images)]
        masks = masks_of(list(range(12)), n_images, seed=seed)
        write_pictures([root / part / name for name in names], seed=seed)
        for name, mask in zip(names, masks, strict=True):
            write_mask(root / f"{part}annot" / name, mask)
        written[part] = masks
    return written


CAMVID_COLORS = {"Animal": (64, 128, 64), "Bicyclist": (0, 128, 192), "Void": (0, 0, 0), "Wall": (64, 192, 0)}


def write_colored_camvid(root: Path) -> dict[str, list]:
    """With the colors of four classes; the masks that are returned are places in `CAMVID_COLORS`."""
    lines = ["name,r,g,b", *(f"{name}, {r}, {g}, {b}" for name, (r, g, b) in CAMVID_COLORS.items())]
    write_text(root / "class_dict.csv", "\n".join(lines) + "\n")
    written, table = {}, np.array(list(CAMVID_COLORS.values()), dtype=np.uint8)
    for seed, (part, n_images) in enumerate((("train", 4), ("test", 2))):
        names = [f"0001TP_00{6690 + 30 * number}" for number in range(n_images)]
        masks = masks_of(list(range(4)), n_images, seed=seed)
        write_pictures([root / part / f"{name}.png" for name in names], seed=seed)
        for name, mask in zip(names, masks, strict=True):
            write_image(root / f"{part}_labels" / f"{name}_L.png", table[mask].transpose(2, 0, 1))
        written[part] = masks
    return written


COCO_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}


def write_coco_stuff(root: Path, *, masks: str = "annotations") -> dict[str, list]:
    """Masks of all numbers that are used, minus 1, and 255."""
    used = [number - 1 for number in range(1, 183) if number not in COCO_UNUSED]
    written = {}
    for seed, (part, n_images) in enumerate((("train2017", 4), ("val2017", 2))):
        names = [f"{number:012}" for number in range(n_images)]
        write_pictures([root / "images" / part / f"{name}.jpg" for name in names], seed=seed)
        written[part] = masks_of([*used, 255], n_images, seed=seed)
        for name, mask in zip(names, written[part], strict=True):
            write_mask(root / masks / part / f"{name}.png", mask)
    return written


def coco_json(n_images: int = 3) -> dict:
    """Images of `SIZE`, the last of nothing; two boxes on each of the others, of the categories 18 and 1."""
    images = [
        {"id": 100 + number, "file_name": f"{number:012}.jpg", "width": SIZE[1], "height": SIZE[0]}
        for number in range(n_images)
    ]
    annotations = []
    for image in images[:-1]:
        for category, box, crowd in ((18, [1, 2, 6, 4.5], 0), (1, [0, 0, 16, 12], 1)):
            row = {"image_id": image["id"], "category_id": category, "bbox": box, "iscrowd": crowd}
            annotations.append({"id": 7 + len(annotations), "area": box[2] * box[3], **row})
    categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def write_coco_set(root: Path, **changed: dict) -> None:
    """Both parts; ``changed`` stands for the content of ``train2017`` or ``val2017``."""
    for seed, part in enumerate(("train2017", "val2017")):
        content = changed.get(part, coco_json())
        names = {row.get("file_name", "x.jpg") for row in coco_json()["images"]}
        write_pictures([root / part / name for name in sorted(names)], seed=seed)
        write_text(root / "annotations" / f"instances_{part}.json", json.dumps(content))


def write_yolo(root: Path, lines: str = "1 0.5 0.5 0.25 0.5\n0 0.25 0.75 0.5 0.5\n") -> None:
    """Three images to train on, of which one has no labels, and two to validate on."""
    for seed, (part, n_images) in enumerate((("train", 3), ("val", 2))):
        write_pictures([root / "images" / part / f"{number}.jpg" for number in range(n_images)], seed=seed)
        for number in range(2):
            write_text(root / "labels" / part / f"{number}.txt", lines)
    write_text(root / "classes.txt", "person\ndog\n")


HEADS = [[1.5, 2.0], [15.0, 11.0], [8.0, 6.0]]


def write_shanghaitech(root: Path, heads: list = HEADS) -> None:
    """MATLAB's files nest the points as the published ones do."""
    from scipy.io import savemat

    for seed, (part, n_images) in enumerate((("train_data", 3), ("test_data", 2))):
        names = [f"IMG_{number}" for number in range(1, n_images + 1)]
        write_pictures([root / part / "images" / f"{name}.jpg" for name in names], seed=seed)
        (root / part / "ground-truth").mkdir(parents=True)
        for name in names:
            inner = np.empty((1, 1), dtype=[("location", object), ("number", object)])
            inner["location"][0, 0], inner["number"][0, 0] = np.array(heads, dtype=float), len(heads)
            cell = np.empty((1, 1), dtype=object)
            cell[0, 0] = inner
            savemat(root / part / "ground-truth" / f"GT_{name}.mat", {"image_info": cell})


def write_ucf_qnrf(root: Path, heads: list = HEADS) -> None:
    """Below a folder of its name."""
    from scipy.io import savemat

    for seed, (part, n_images) in enumerate((("Train", 3), ("Test", 2))):
        names = [f"img_{number:04}" for number in range(1, n_images + 1)]
        folder = root / "UCF-QNRF_ECCV18" / part
        write_pictures([folder / f"{name}.jpg" for name in names], seed=seed)
        for name in names:
            savemat(folder / f"{name}_ann.mat", {"annPoints": np.array(heads, dtype=float).reshape(-1, 2)})


def write_points(root: Path, heads: list = HEADS) -> None:
    """JSON files to train on, CSV files to test with."""
    for seed, (part, n_images) in enumerate((("train", 3), ("test", 2))):
        write_pictures([root / part / f"{number}.png" for number in range(n_images)], seed=seed)
        for number in range(n_images):
            as_csv = "x,y\n" + "".join(f"{x},{y}\n" for x, y in heads)
            text, suffix = (json.dumps(heads), "json") if part == "train" else (as_csv, "csv")
            write_text(root / part / f"{number}.{suffix}", text)


def write_text(path: Path, text: str) -> None:
    """With the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
