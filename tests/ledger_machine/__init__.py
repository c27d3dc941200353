"""A state machine over the ledger: virtual workers, a broker that loses and doubles, faults at any moment.

- ledger.py: the real database: emptied for each example, read as a whole, moved along in time
- invariants.py: what is true of every ledger at every moment, told from the rows alone
- moments.py, model.py: what the rows must be after each operation
- ground.py, people.py, fleet.py, simulation.py: producer, people and workers as they behave; they call the real store
- machine.py: the rules, for hypothesis
- races.py: transactions that run at the same time
- small.py: short words for tests that walk one batch through its life
"""
