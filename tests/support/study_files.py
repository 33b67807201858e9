"""Two studies' files beside each other, bit for bit.

Asserts; trains nothing and writes nothing.
"""

import torch

from decayfree.study.files.checkpoint import load_checkpoint
from decayfree.study.files.results import run_directory

_TIMES = {"elapsed_s", "steps_s"}


def assert_same_files(run, out, other):
    """Metrics, spectra and norms byte for byte; weights, buffers and all other state bit for bit."""
    ours, theirs = run_directory(out, run.key), run_directory(other, run.key)
    for name in ("metrics.jsonl", "spectra.json", "norms.f32"):
        assert (ours / name).is_file() == (theirs / name).is_file()
        if (ours / name).is_file():
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert_same_state(load_checkpoint(ours), load_checkpoint(theirs))


def assert_same_state(ours, theirs):
    """Bit for bit, but for the time that it took."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - _TIMES:
            assert_same_state(ours[key], theirs[key])
    elif isinstance(ours, list):
        for our_item, their_item in zip(ours, theirs, strict=True):
            assert_same_state(our_item, their_item)
    else:
        assert ours == theirs
