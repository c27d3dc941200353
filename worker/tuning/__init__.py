"""`scanfleet tune`: finds the prompt, pixel budgets, gate, crop pass and fusion that suit a check, on labelled images.

Settings are chosen on one part of the images and measured on the other. No ledger is read or written here.
"""
