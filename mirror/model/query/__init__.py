"""Query: analyses a mapping's SELECT.

select_tree -> equalities -> branches -> effects; `validate` refuses queries that fences cannot rely
on. These modules read private attributes of SQLAlchemy's SELECT.
"""
