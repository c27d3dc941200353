"""The views of the database as a migration made them: one file for each migration that changed them.

A later migration that changes a table below them drops them first, and creates them again.
"""
