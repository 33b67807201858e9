"""Boxes in COCO's JSON: ``instances_train2017.json`` and ``instances_val2017.json`` beside their images.

Trains on ``train2017`` and tests on ``val2017``. Boxes of crowds (``iscrowd``) are ignored. Images without
annotations are images of nothing, as in COCO's own tools. Also writes what it reads. Annotations are under
CC BY 4.0, images of flickr's users.

References:
    Lin et al., "Microsoft COCO: Common Objects in Context", 2014, arXiv 1405.0312.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decayfree.arguments.kinds import checked
from decayfree.errors import InvalidInputError, extra_needed
from decayfree.study.data.annotated.listing import (
    Listing,
    Part,
    as_rows,
    first_with,
    is_number,
    root_of,
    text_of,
)
from decayfree.study.data.decoding import raise_faults
from decayfree.study.data.images import Images
from decayfree.study.data.truth import Ragged
from decayfree.study.disk import replace_text

PARTS = ("train2017", "val2017")
_MOST_BYTES = 1 << 30
"""Of a file; that of train2017 has 470 million."""
_LAYOUT = (
    "It takes annotations/instances_train2017.json and annotations/instances_val2017.json, and the images in "
    "train2017 and val2017, or in images/train2017 and images/val2017; name the folder above them as "
    "data_dir. It is at https://cocodataset.org/#download."
)
_WANTED: dict[str, dict[str, tuple[type, ...]]] = {
    "images": {"id": (int,), "file_name": (str,), "width": (int,), "height": (int,)},
    "categories": {"id": (int,), "name": (str,)},
    "annotations": {"id": (int,), "image_id": (int,), "category_id": (int,), "bbox": (list,)},
}
"""Table -> what each of its rows has, and of which kinds."""


def find(data_dir: str | None) -> Listing:
    """List the images of both parts and their boxes.

    Raises:
        InvalidInputError: If files are not there or are damaged, ids come twice or refer to nothing, or the
            parts have other classes.
    """
    root = root_of(data_dir, "COCO", _LAYOUT)
    files = [f"annotations/instances_{part}.json" for part in PARTS]
    folder = first_with([root], files, "COCO", _LAYOUT)
    (train, classes), (test, others) = (
        _read(folder / file, _folder(folder, part)) for file, part in zip(files, PARTS, strict=True)
    )
    if classes != others:
        raise InvalidInputError(f"{folder}: the categories of {PARTS[1]} are not those of {PARTS[0]}")
    return Listing(train, test, classes, len(classes))


@checked()
def write_coco(part: Images, folder: str | Path, *, name: str, class_names: Sequence[str]) -> None:
    """Write images with boxes as `find` and COCO's tools read them: PNG files and their JSON.

    Args:
        part: Images and boxes; one that is ignored is written as a crowd.
        folder: Where to; it is made if it is not there.
        name: Of the part: ``train2017`` or ``val2017``.
        class_names: Of class 0 and so on.

    Raises:
        InvalidInputError: If the images have no boxes.
        MissingExtraError: If Pillow is not installed.
    """
    with extra_needed("study", "images are written with Pillow, which is not installed"):
        from PIL import Image
    if not isinstance(part.labels, Ragged) or part.labels.rows.shape[1] != 6:
        raise InvalidInputError("write_coco: expected images with boxes")
    folder = Path(folder)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    height, width = part.pixels.shape[-2:]
    for number, (pixels, rows) in enumerate(zip(part.pixels, part.labels.split(), strict=True), start=1):
        file = f"{number:012}.png"
        values = (pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels).contiguous().cpu().numpy()
        Image.fromarray(values).save(folder / name / file)
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        for x1, y1, x2, y2, label, is_ignored in rows.tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(is_ignored),
                }
            )
    categories = [{"id": number, "name": each} for number, each in enumerate(class_names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    replace_text(folder / "annotations" / f"instances_{name}.json", json.dumps(content))


def _folder(root: Path, part: str) -> Path:
    return root / "images" / part if (root / "images" / part).is_dir() else root / part


def _read(path: Path, folder: Path) -> tuple[Part, tuple[str, ...]]:
    """The images of one file with their boxes, and the names of the classes by their ids."""
    try:
        content = json.loads(text_of(path, at_most=_MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is no JSON: {error}") from error
    tables: dict[str, Any] = {
        name: content.get(name) if isinstance(content, dict) else None for name in _WANTED
    }
    raise_faults(
        f"tables are not in {path}",
        [f"{name}: expected a list" for name, rows in tables.items() if not isinstance(rows, list)],
    )
    raise_faults(f"faults in {path}", [fault for name in _WANTED for fault in _faults(name, tables[name])])
    images = {row["id"]: place for place, row in enumerate(tables["images"])}
    ids = sorted(row["id"] for row in tables["categories"])
    names = {row["id"]: row["name"] for row in tables["categories"]}
    label = {number: place for place, number in enumerate(ids)}
    boxes: list[list[tuple[float, ...]]] = [[] for _ in images]
    faults = []
    for row in tables["annotations"]:
        if row["image_id"] not in images or row["category_id"] not in label:
            unknown = "image" if row["image_id"] not in images else "category"
            faults.append(f"annotations: id {row['id']}: there is no {unknown} {row[f'{unknown}_id']}")
            continue
        x, y, width, height = row["bbox"]
        box = (x, y, x + width, y + height, label[row["category_id"]], row.get("iscrowd", 0) == 1)
        boxes[images[row["image_id"]]].append(box)
    raise_faults(f"faults in {path}", faults)
    part = Part(
        [str(folder / row["file_name"]) for row in tables["images"]],
        rows=[as_rows(rows, 6) for rows in boxes],
        sizes=[(row["width"], row["height"]) for row in tables["images"]],
    )
    return part, tuple(names[number] for number in ids)


def _faults(table: str, rows: list[Any]) -> list[str]:
    """What is wrong with the rows of a table by themselves."""
    wanted = _WANTED[table]
    faults = []
    seen: dict[str, set[Any]] = {"id": set(), "file_name": set()}
    for place, row in enumerate(rows):
        of_wrong_kind = [
            key
            for key, kinds in wanted.items()
            if not isinstance(row, dict) or not isinstance(row.get(key), kinds) or row[key] is True
        ]
        if of_wrong_kind:
            faults.append(f"{table}[{place}]: without a proper {', '.join(of_wrong_kind)}")
            continue
        if table == "annotations":
            box, crowd = row["bbox"], row.get("iscrowd", 0)
            if len(box) != 4 or not all(map(is_number, box)):
                faults.append(f"{table}: id {row['id']}: bbox: expected x, y, width, height, got {box}")
            if crowd not in (0, 1):
                faults.append(f"{table}: id {row['id']}: iscrowd: expected 0 or 1, got {crowd!r}")
        for key, known in seen.items():
            if key in wanted and row[key] in known:
                faults.append(f"{table}: {key} {row[key]} comes twice")
            if key in wanted:
                known.add(row[key])
    return faults
