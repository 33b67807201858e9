"""Images with masks, boxes or points, read from disk in the formats in which they are published."""
