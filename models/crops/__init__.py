"""Second looks at images whose first look may have missed something small.

policy.py       what is looked at, and how              cutting.py       from a region to a magnified crop
wholes.py       looks that need no region               emphasis.py      a row with attention turned to a region
refiner.py      a second look from end to end           fusion.py        several readings become one
batch.py        second looks without a fleet            box_fusion.py    boxes of several looks: NMS, WBF

Where to look: `models.relevance`. The attention that is recorded or turned: `models.network.attention`.
"""
