(
  select {values},
    {key_hash} as key_hash
  from {relation} as {alias}
  where {alias}.ctid >= {part}[1] and {alias}.ctid < {part}[2]
    and {condition}
  -- So that a hash is taken once, not wherever it is named.
  offset 0
) as k
where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
