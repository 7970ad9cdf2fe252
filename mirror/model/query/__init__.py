"""Query: what the library reads out of a mapping's SELECT.

select_tree -> equalities -> branches -> effects; `validate` refuses what fences cannot rely on.
"""
