
-- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
-- of it for every batch of a first load.
left join lateral (
  select * from {ledger} as s where {s_is_i} limit 1
) as l on true
