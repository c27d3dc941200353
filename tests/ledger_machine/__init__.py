"""A state machine over the ledger: virtual workers, a broker that loses and doubles, faults at any moment.

- ledger.py: the real database: emptied for each example, read as a whole, shifted in time
- invariants.py: invariants of the rows at every moment
- moments.py, model.py: the rows that each operation must leave
- ground.py, people.py, fleet.py, simulation.py: producer, people and workers as they behave; they call scanfleet.db
- machine.py: the rules, for hypothesis
- races.py: transactions that run at the same time
- small.py: short helpers for tests of one batch
"""
