"""Relevance maps: the parts of an image that an answer came from.

maps.py         relevance maps and their cost           prompt_runner.py  one prompt in every kind of pass
grad_att.py     attention times gradient                pixel_gradient.py gradients at the pixels
gradients.py    a served network under gradients        grid.py           from tokens to a grid over the image
tiles.py        maps of large images, tile by tile      select.py         from a map to a region, or none
regions.py      regions and relevance maps
"""
