"""Second looks at images whose first look may have missed something small.

policy.py     what is looked at, and how        types.py   regions and relevance maps
last_row.py   the last token's attention        maps.py    relevance maps: rel-att, grad-att, pure-grad
box.py        from a map to a region, or none    tiles.py   maps of large images, tile by tile
refiner.py    a second look from end to end      fusion.py  several readings become one
"""
