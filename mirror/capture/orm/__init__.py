"""ORM capture: records events of the rows that SQLAlchemy sessions flush and execute.

row_events -> plans -> assigned, secondary_tables -> bulk, flushes -> listeners. These modules read
private attributes of SQLAlchemy's statements.
"""
