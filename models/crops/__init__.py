"""The crop pass: a second reading of images whose first pass may have missed something small.

policy.py       where the pass reads, and how           cutting.py       from a region to a magnified crop
whole_image.py  passes that need no region              emphasis.py      a row with attention turned to a region
reader.py       the crop pass from end to end           fusion.py        several readings become one
batch.py        the crop pass without a fleet           box_fusion.py    boxes of several readings: NMS, WBF

Finding the region: `models.relevance`. Recording and emphasising attention: `models.network`.
"""
