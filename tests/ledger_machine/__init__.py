"""A state machine over the ledger: virtual workers, a broker that loses and doubles, faults at any moment.

ledger.py      the real database: emptied for each example, read as a whole, moved along in time
invariants.py  what is true of every ledger at every moment, told from the rows alone
model.py       what the rows must be after each operation
world.py       workers, messages and images as they behave; it calls the store as a worker does
machine.py     the rules, for hypothesis
"""
