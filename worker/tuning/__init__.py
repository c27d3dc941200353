"""`scanfleet tune`: which words, pixel budgets, gate, second look and fusion suit a check, on labelled images.

Chosen on one part of the images, judged on the other. Knows no ledger: labels and images come in, a report goes out.
"""
