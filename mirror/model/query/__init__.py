"""Query: finds out from a mapping's SELECT which of its rows a changed row of the primary affects.

Each module builds on the one before it: select_tree, equalities, branches, effects. `validate`
refuses queries whose result depends on more than rows. These modules read private attributes of
SQLAlchemy's SELECT.
"""
