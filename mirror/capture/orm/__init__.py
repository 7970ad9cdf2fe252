"""ORM capture: records events of the rows that SQLAlchemy sessions flush and execute.

These modules read private attributes of SQLAlchemy's statements. Each builds on those before it:

    catalog  ->  row_events  ->  plans  ->  assigned, secondary_tables
    ->  bulk, flushes  ->  listeners

`coverage` compares the models with the mappings, for `mirror check`.
"""
