"""The routes of the API."""

from scanfleet.serve.v1.analyze import router as analyze
from scanfleet.serve.v1.labels import router as labels
from scanfleet.serve.v1.results import router as results
from scanfleet.serve.v1.scans import router as scans

ROUTERS = (analyze, scans, results, labels)
