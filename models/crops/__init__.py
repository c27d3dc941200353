"""Second looks at images whose first look may have missed something small.

policy.py       what is looked at, and how              types.py         regions and relevance maps
last_row.py     the answer position's attention         asked.py         one question under many kinds of pass
maps.py         relevance maps and what they cost       grad_att.py      attention times gradient
pixel_gradient  gradients at the pixels                 gradients.py     a quickened network under gradients
grid.py         from tokens to a grid over the image    tiles.py         maps of large images, tile by tile
box.py          from a map to a region, or none         cutting.py       from a region to a magnified crop
wholes.py       looks that need no region               reweight.py      attention turned to a region
wording.py      other wordings of a question            box_fusion.py    boxes of several looks: NMS, WBF
refiner.py      a second look from end to end           fusion.py        several readings become one
again.py        second looks without a fleet
"""
