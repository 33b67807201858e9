"""What is said of pictures, brought to images of one size: boxes and points scaled, values turned to classes.

Reads no annotations. What cannot be in an image is left out or a fault, and never passed over in silence.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from decayfree.study.data import decoding
from decayfree.study.data.annotated.listing import Listing, Part
from decayfree.study.data.decoding import raise_faults
from decayfree.study.data.truth import Ragged, Truth

_UNKNOWN = 254
"""In place of a class, of which no set has so many."""
_N_NUMBERS_OF_A_BOX = 6
_ROUNDING = 1e-6
"""Of shares of the image, that annotations as text have."""


def truth_of(part: Part, listing: Listing, *, size: int, name: str) -> tuple[Truth, list[str]]:
    """What is true of the images of a part when each is ``size`` by ``size``, and what was left out.

    Args:
        part: Some images of ``listing``.
        listing: The data set; says what its values mean.
        size: Height and width of the images, in pixels.
        name: What the notes call the part.

    Raises:
        InvalidInputError: If masks or annotations have other sizes than their pictures, or values of masks
            are of no class; all files named at once.
    """
    if listing.values or listing.colors:
        return _masks(part, listing, size), []
    if not part.paths:  # nothing to validate on: rows of as many numbers
        return Ragged(listing.train.rows[0][:0], torch.zeros(0, dtype=torch.int64)), []
    sizes = decoding.sizes(part.paths)
    said = zip(part.paths, part.sizes, sizes.tolist(), strict=True) if part.sizes else ()
    raise_faults(
        "pictures have other sizes than their annotations say",
        [
            f"{path}: {width} × {height}, expected {wanted[0]} × {wanted[1]}"
            for path, wanted, (width, height) in said
            if wanted[0] and wanted[1] and wanted != (width, height)
        ],
    )
    return brought(part.rows, sizes, in_shares=listing.in_shares, size=size, name=name)


def brought(
    rows: Sequence[Tensor], sizes: Tensor, *, in_shares: bool, size: int, name: str
) -> tuple[Ragged, list[str]]:
    """Boxes or points in pixels of images that are ``size`` by ``size``, and notes on what was left out.

    Boxes are cut at the border; those that have no area in the picture are left out, and so are points
    outside of it.

    Args:
        rows: Of each picture (n, 6) or (n, 2), as `Truth` has them; of one picture at least.
        sizes: (n_pictures, 2), int64: their widths and heights, in pixels.
        in_shares: Whether rows are shares of width and height; else they are pixels.
        size: Height and width of the images, in pixels.
        name: What the notes call the part.

    Example:
        >>> boxes = [torch.tensor([[-2.0, 0, 4, 5, 1, 0], [9, 9, 9, 9, 0, 0]])]
        >>> truth, notes = brought(boxes, torch.tensor([[8, 10]]), in_shares=False, size=4, name="train")
        >>> truth.rows
        tensor([[0., 0., 2., 2., 1., 0.]])
        >>> notes[0]
        'train: 1 of 2 boxes reach out of the image and are cut at its border.'
    """
    counts = torch.tensor([len(each) for each in rows])
    values, image = torch.cat(tuple(rows)).double(), torch.arange(len(rows)).repeat_interleave(counts)
    sides = sizes.double()[image]
    is_boxes = values.shape[1] == _N_NUMBERS_OF_A_BOX
    places = values[:, : 4 if is_boxes else 2]
    shares = places if in_shares else places / sides.repeat(1, places.shape[1] // 2)
    inside = shares.clamp(0, 1)
    is_cut = ((inside - shares).abs() > _ROUNDING).any(1)
    pixels = (inside * size).float()
    if is_boxes:
        is_kept = (pixels[:, 2] > pixels[:, 0]) & (pixels[:, 3] > pixels[:, 1])
        told = {
            "boxes reach out of the image and are cut at its border": is_cut & is_kept,
            "boxes have no area in the image and are left out": ~is_kept,
        }
    else:
        is_kept = ~is_cut
        told = {"points are outside of the image and are left out": is_cut}
    kept = torch.cat([pixels, values[:, places.shape[1] :].float()], dim=1)[is_kept]
    n_kept = image[is_kept].bincount(minlength=len(rows))
    notes = [
        f"{name}: {int(which.sum())} of {len(values)} {what}." for what, which in told.items() if which.any()
    ]
    n_empty = int((n_kept == 0).sum())
    if n_empty:
        what = "boxes" if is_boxes else "points"
        notes.append(f"{name}: {n_empty} of {len(rows)} images have no {what}: images of nothing.")
    return Ragged(kept, n_kept), notes


def _masks(part: Part, listing: Listing, size: int) -> Tensor:
    """(n, size, size), uint8: the class of each pixel."""
    pictures, masks = decoding.sizes(part.paths), decoding.sizes(part.masks)
    differ = (pictures != masks).any(1).nonzero().squeeze(1).tolist()
    raise_faults(
        "masks have other sizes than their pictures",
        [
            f"{part.masks[i]}: {' × '.join(map(str, masks[i].tolist()))}, expected "
            f"{' × '.join(map(str, pictures[i].tolist()))}"
            for i in differ
        ],
    )
    way = decoding.COLORED_MASK if listing.colors else decoding.MASK
    (decoded,) = decoding.decode([part.masks], size=size, way=way)
    classes = torch.empty(len(part), size, size, dtype=torch.uint8)
    table = _table(listing.values)
    faults = []
    for place, pixels in enumerate(decoded.pixels):
        mask = _by_color(pixels, listing.colors) if listing.colors else table[pixels[0].long()]
        classes[place] = mask
        unknown = mask == _UNKNOWN
        if unknown.any():
            first = tuple(pixels[:, unknown][:, 0].tolist())
            value = first[0] if len(first) == 1 else first
            faults.append(f"{part.masks[place]}: {value} is the value of no class")
    raise_faults("masks have pixels of no class", faults)
    return classes


def _table(values: Mapping[int, int]) -> Tensor:
    """(256,), uint8: value -> class."""
    table = torch.full((256,), _UNKNOWN, dtype=torch.uint8)
    for value, label in values.items():
        table[value] = label
    return table


def _by_color(pixels: Tensor, colors: Mapping[tuple[int, int, int], int]) -> Tensor:
    """(size, size), uint8, of (3, size, size)."""
    numbers = {(red << 16) + (green << 8) + blue: label for (red, green, blue), label in colors.items()}
    numbers = dict(sorted(numbers.items()))
    keys, labels = torch.tensor(list(numbers)), torch.tensor(list(numbers.values()), dtype=torch.uint8)
    red, green, blue = pixels.long()
    wanted = (red << 16) + (green << 8) + blue
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, labels[place], _UNKNOWN)
