"""Relevance maps: which part of an image an answer came from.

maps.py         relevance maps and what they cost       attended.py      one question under many kinds of pass
grad_att.py     attention times gradient                pixel_gradient   gradients at the pixels
gradients.py    a quickened network under gradients     grid.py          from tokens to a grid over the image
tiles.py        maps of large images, tile by tile      select.py        from a map to a region, or none
regions.py      regions and relevance maps
"""
