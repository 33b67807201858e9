"""Scenes drawn out of real items and photographs, of which all is known: masks, boxes, points."""
